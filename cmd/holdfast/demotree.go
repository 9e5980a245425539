package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// makeDemoTree makes a small tree as a server has it: configuration, pages, a database dump, pictures, a link, an empty
// directory. Everything is an hour old, as files that nobody edits right now are.
func makeDemoTree(dir string) (files int, total uint64, err error) {
	r := rand.New(rand.NewPCG(20260701, 1))
	noise := rand.NewChaCha8([32]byte{1})
	write := func(path string, data []byte) {
		if err != nil {
			return
		}
		p := filepath.Join(dir, filepath.FromSlash(path))
		if err = os.MkdirAll(filepath.Dir(p), 0o755); err == nil {
			err = os.WriteFile(p, data, 0o644)
		}
		files++
		total += uint64(len(data))
	}
	for i := range 40 {
		write(fmt.Sprintf("etc/site-%02d.conf", i), fmt.Appendf(nil, "server {\n  listen 80%02d;\n  root /var/www/site%02d;\n}\n", i, i))
	}
	for i := range 60 {
		write(fmt.Sprintf("var/www/page-%03d.html", i), []byte(demoText(r, 2000+r.IntN(6000))))
	}
	write("var/db/orders.sql", demoDump(r, 30_000))
	for i := range 8 {
		picture := make([]byte, 300_000+r.IntN(200_000))
		_, _ = noise.Read(picture)
		write(fmt.Sprintf("var/www/img/photo-%d.jpg", i), picture)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "var/empty"), 0o755); err != nil {
		return 0, 0, err
	}
	if err := os.Symlink("page-000.html", filepath.Join(dir, "var/www/index.html")); err != nil {
		return 0, 0, err
	}
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	return files, total, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, old, old)
	})
}

func demoText(r *rand.Rand, n int) string {
	words := strings.Fields("the vault keeps what production had and gives it back byte for byte to whoever may ask for it on the worst day of the year")
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))])
		b.WriteByte(" \n"[min(r.IntN(12)/11, 1)])
	}
	return b.String()
}

func demoDump(r *rand.Rand, rows int) []byte {
	var b []byte
	for i := range rows {
		b = fmt.Appendf(b, "INSERT INTO orders VALUES (%d, '2026-%02d-%02d', %d, 'customer %05d', 'open');\n", i, 1+r.IntN(12), 1+r.IntN(28), r.IntN(100_000), r.IntN(5000))
	}
	return b
}

func demoEdit(dir string) error {
	old := time.Now().Add(-30 * time.Minute)
	dump := filepath.Join(dir, "var/db/orders.sql")
	b, err := os.ReadFile(dump)
	if err != nil {
		return err
	}
	at := bytes.LastIndex(b[:len(b)/2], []byte("open"))
	edited := append(append(bytes.Clone(b[:at]), "paid, thank you"...), b[at+4:]...)
	if err := os.WriteFile(dump, edited, 0o644); err != nil {
		return err
	}
	added := filepath.Join(dir, "etc/site-new.conf")
	if err := os.WriteFile(added, []byte("server {}\n"), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chtimes(dump, old, old), os.Chtimes(added, old, old))
}

// demoAttack does what ransomware does, in the throw-away directory only.
func demoAttack(dir string) (encrypted, deleted int, err error) {
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		return 0, 0, err
	}
	old := time.Now().Add(-15 * time.Minute)
	n := 0
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if n++; n%3 == 0 {
			deleted++
			return os.Remove(p)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(b, b)
		encrypted++
		return errors.Join(os.WriteFile(p, b, 0o644), os.Chtimes(p, old, old))
	})
	return encrypted, deleted, err
}

// compareTrees compares two directories: names, kinds, modes, link targets and every byte.
func compareTrees(want, got string) (files int, total uint64, err error) {
	seen := 0
	err = filepath.WalkDir(want, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, err := filepath.Rel(want, p)
		if err != nil {
			return err
		}
		n, err := compareEntry(p, filepath.Join(got, rel))
		if e.Type().IsRegular() {
			files++
			total += n
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	err = filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error {
		seen--
		return err
	})
	if err == nil && seen != 0 {
		err = fmt.Errorf("%s holds %d entries more than it should", got, -seen)
	}
	return files, total, err
}

func compareEntry(want, got string) (uint64, error) {
	a, err := os.Lstat(want)
	if err != nil {
		return 0, err
	}
	b, err := os.Lstat(got)
	if err != nil {
		return 0, err
	}
	if a.Mode() != b.Mode() {
		return 0, fmt.Errorf("%s came back as %v and was %v", got, b.Mode(), a.Mode())
	}
	switch {
	case a.Mode()&fs.ModeSymlink != 0:
		x, _ := os.Readlink(want)
		y, _ := os.Readlink(got)
		if x != y {
			return 0, fmt.Errorf("%s points to %q and pointed to %q", got, y, x)
		}
	case a.Mode().IsRegular():
		x, err := os.ReadFile(want)
		if err != nil {
			return 0, err
		}
		y, err := os.ReadFile(got)
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(x, y) {
			return 0, fmt.Errorf("%s came back with other bytes", got)
		}
		return uint64(len(x)), nil
	}
	return 0, nil
}
