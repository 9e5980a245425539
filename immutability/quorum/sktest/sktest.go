// Package sktest is a FIDO key without hardware, for tests: ssh-keygen loads it as it loads the library of a real one.
package sktest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

//go:embed testdata/provider.c
var provider []byte

// Key is a FIDO key for ssh-keygen, without hardware: a library that ssh-keygen loads, which asks this process.
type Key struct {
	Library string // what -w and SSH_SK_PROVIDER name
	socket  string
	// Untouched makes it sign without a touch, whatever it was asked for.
	Untouched atomic.Bool
	keys      []any // by handle
	signed    uint32
}

// Env tells ssh-keygen of the key.
func (k *Key) Env() []string {
	return []string{"HOLDFAST_TEST_SK=" + k.socket, "SSH_SK_PROVIDER=" + k.Library}
}

// PlugIn builds the library, with gcc, and answers it until the test ends. The environment of the test tells of it meanwhile.
func PlugIn(t *testing.T) *Key {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k := &Key{Library: filepath.Join(dir, "sk.so")}
	gcc := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-O1", "-o", k.Library, "-x", "c", "-")
	gcc.Stdin = bytes.NewReader(provider)
	out, err := gcc.CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	k.socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", k.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := k.answer(c); err != nil {
				t.Errorf("security key: %v", err)
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	t.Setenv("HOLDFAST_TEST_SK", k.socket)
	t.Setenv("SSH_SK_PROVIDER", k.Library)
	return k
}

func (k *Key) answer(c net.Conn) error {
	in := bufio.NewReader(c)
	head := make([]byte, 3)
	if _, err := io.ReadFull(in, head); err != nil {
		return err
	}
	var texts [3][]byte
	for i := range texts {
		var n uint32
		if err := binary.Read(in, binary.BigEndian, &n); err != nil || n > 1<<16 {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		texts[i] = make([]byte, n)
		if _, err := io.ReadFull(in, texts[i]); err != nil {
			return err
		}
	}
	data, application, handle := texts[0], texts[1], texts[2]
	flags := head[2] & 1
	if k.Untouched.Load() {
		flags = 0
	}
	var first, second []byte
	var err error
	if head[0] == 1 {
		first, second, err = k.enrol(head[1])
	} else {
		first, second, err = k.sign(handle, application, data, flags)
	}
	if err != nil {
		c.Write([]byte{0, 0})
		return err
	}
	out := binary.BigEndian.AppendUint32([]byte{1, flags}, k.signed)
	for _, text := range [][]byte{first, second} {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(text))), text...)
	}
	_, err = c.Write(out)
	return err
}

// enrol makes a key: 0 is ECDSA, 1 is Ed25519. It gives the public key and the handle.
func (k *Key) enrol(algorithm byte) (public, handle []byte, err error) {
	if algorithm == 1 {
		pub, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		k.keys, public = append(k.keys, private), pub
	} else {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		if public, err = private.PublicKey.Bytes(); err != nil {
			return nil, nil, err
		}
		k.keys = append(k.keys, private)
	}
	return public, []byte{byte(len(k.keys))}, nil
}

// sign does as U2F has it: the hash of the application, the flags, the counter and the hash of the data are signed.
func (k *Key) sign(handle, application, data []byte, flags byte) (r, s []byte, err error) {
	if len(handle) != 1 || int(handle[0]) < 1 || int(handle[0]) > len(k.keys) {
		return nil, nil, fmt.Errorf("no key %x", handle)
	}
	k.signed++
	app, sum := sha256.Sum256(application), sha256.Sum256(data)
	message := binary.BigEndian.AppendUint32(append(app[:], flags), k.signed)
	message = append(message, sum[:]...)
	switch key := k.keys[handle[0]-1].(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message), nil, nil
	case *ecdsa.PrivateKey:
		digest := sha256.Sum256(message)
		a, b, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			return nil, nil, err
		}
		return a.Bytes(), b.Bytes(), nil
	}
	return nil, nil, fmt.Errorf("key %x is none", handle)
}
