package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A ledger's checkpoint, a proof of its first record and its key: made once, never to change.
const (
	key        = "holdfast/0123456789abcdef0123456789abcdef+c9fbd915+AUge3nctoVeFyeWaCGIBuMP5wwcSnj/G1/NKpN/tWBTl"
	witnessKey = "w.example/1+a4b1e6f9+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

func check(in string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(args, strings.NewReader(in), &o, &e)
	return code, o.String(), e.String()
}

// TestCheckpointOfTheFirstReleaseIsStillVerified reads what was written when the format was fixed.
func TestCheckpointOfTheFirstReleaseIsStillVerified(t *testing.T) {
	const file = "../../immutability/ledger/testdata/v1/checkpoint"
	if code, out, errs := check("", "checkpoint", "--key", key, file); code != exitDone || !strings.Contains(out, "records 8\n") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if code, _, _ := check(string(bad), "checkpoint", "--key", key, "-"); code != exitRefuted {
			t.Errorf("byte %d: exit %d", i, code)
		}
	}
	if code, out, _ := check(string(b), "consistency", "--key", key, file, "-"); code != exitRefuted {
		t.Errorf("a checkpoint is no proof: exit %d\n%s", code, out)
	}
	if code, out, errs := check("old 8\n\n"+string(b), "consistency", "--key", key, file, "-"); code != exitDone {
		t.Errorf("it extends itself: exit %d\n%s%s", code, out, errs)
	}
}

func TestWrongUseIsExplained(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		code int
		args []string
	}{
		{exitDone, []string{"-h"}},
		{exitUsage, nil},
		{exitUsage, []string{"prove"}},
		{exitUsage, []string{"checkpoint", file}},
		{exitUsage, []string{"checkpoint", "--key", "x", file}},
		{exitUsage, []string{"checkpoint", "--key", key}},
		{exitUsage, []string{"checkpoint", "--key", key, file, file}},
		{exitUsage, []string{"checkpoint", "--key", key, "--key", key, file}},
		{exitUsage, []string{"checkpoint", "--key", key, "--witness", key, file}},
		{exitUsage, []string{"checkpoint", "--key", key, "--witness", witnessKey, file}},
		{exitUsage, []string{"checkpoint", "--key", key, "--quorum", "1", file}},
		{exitUsage, []string{"consistency", "--key", key, "-", "-"}},
		{exitFailed, []string{"checkpoint", "--key", key, file + "absent"}},
		{exitRefuted, []string{"checkpoint", "--key", key, file}},
		{exitRefuted, []string{"proof", "--key", key, file}},
	} {
		code, out, errs := check("", test.args...)
		if code != test.code || code != exitDone && errs == "" || code == exitDone && out == "" {
			t.Errorf("%q: exit %d, want %d: %s%s", test.args, code, test.code, out, errs)
		}
	}
}

func TestRecordsReachNoTerminalRaw(t *testing.T) {
	if got := plain([]byte("a\x1b[2J\u202e\U0001f600\xff")); got != `a\u001b[2J\u202e\ud83d\ude00\ufffd` {
		t.Error(got)
	}
}
