package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tailBytes is the length of a pack's tail, as docs/format/pack.md draws it: "HFTAIL\r\n", version (2), flags (2), number (4),
// length of the file (8), offset of the footer (8), length of the footer (4), and more.
const tailBytes = 56

// parityOf is what the packs under dir would not have without parity: all behind the footer but one tail.
func parityOf(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".pack") {
			return err
		}
		n, err := parityOfPack(path)
		sum += n
		return err
	})
	return sum, err
}

func parityOfPack(path string) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var tail [tailBytes]byte
	if _, err := f.ReadAt(tail[:], info.Size()-tailBytes); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.HasPrefix(tail[:], []byte("HFTAIL\r\n")) {
		return 0, fmt.Errorf("%s: has no tail", path)
	}
	end := int64(binary.BigEndian.Uint64(tail[24:])) + int64(binary.BigEndian.Uint32(tail[32:]))
	n = info.Size() - tailBytes - end
	if n < 0 {
		return 0, fmt.Errorf("%s: of %d bytes, and the footer ends at %d", path, info.Size(), end)
	}
	return n, nil
}

func trimmed(b []byte) string { return strings.TrimSpace(string(b)) }
