package remote

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

func TestParseURL(t *testing.T) {
	for _, row := range []struct {
		url, user, host, path string
		port                  int
	}{
		{"sftp://vault@web1", "vault", "web1", "/", 22},
		{"sftp://vault@web1/", "vault", "web1", "/", 22},
		{"sftp://root@[fe80::1]:2022/var/www/", "root", "fe80::1", "/var/www", 2022},
		{"sftp://a%40b@host/with%20space/%3F", "a@b", "host", "/with space/?", 22},
		{"sftp://u@h/a\x00b", "", "", "", 0},
		{"sftp://u@h/a%00b", "", "", "", 0},
		{"sftp://u@h/a/../b", "", "", "", 0},
		{"sftp://u@h/a//b", "", "", "", 0},
		{"sftp://u@h/./b", "", "", "", 0},
		{"sftp://u:secret@h/", "", "", "", 0},
		{"sftp://h/path", "", "", "", 0},
		{"sftp://u@/path", "", "", "", 0},
		{"sftp://u@h:0/", "", "", "", 0},
		{"sftp://u@h:70000/", "", "", "", 0},
		{"sftp://u@h/a?b", "", "", "", 0},
		{"ssh://u@h/a", "", "", "", 0},
		{"/local/path", "", "", "", 0},
		{"", "", "", "", 0},
	} {
		user, host, port, path, err := ParseURL(row.url)
		if (err != nil) != (row.user == "") || user != row.user || host != row.host || port != row.port || path != row.path {
			t.Errorf("%q: %q %q %d %q %v", row.url, user, host, port, path, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("sftp://vault@web1:22/etc")
	f.Add("sftp://a%40b@[::1]/x%2Fy")
	f.Fuzz(func(t *testing.T, s string) {
		user, host, port, path, err := ParseURL(s)
		if err == nil && (user == "" || host == "" || port < 1 || port > 65535 || path[0] != '/' || DefaultLimits().checkPath("x", path) != nil && len(path) < 1000) {
			t.Errorf("%q: %q %q %d %q", s, user, host, port, path)
		}
	})
}

func testKey(seed byte) ssh.PublicKey {
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), 32))).Public())
	if err != nil {
		panic(err)
	}
	return key
}

func hashedName(name string) string {
	salt := []byte("0123456789abcdefghij")
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return "|1|" + base64.StdEncoding.EncodeToString(salt) + "|" + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestKnownHosts(t *testing.T) {
	line := func(hosts string, seed byte) string {
		return hosts + " " + string(ssh.MarshalAuthorizedKey(testKey(seed)))
	}
	file := "# a comment\n\n" +
		line("web1,10.0.0.1", 'a') + line("[web1]:2022", 'b') + line("*.example.com,!bad.example.com", 'c') +
		line(hashedName("secret.example.org"), 'd') + line(hashedName("[secret.example.org]:2022"), 'e') +
		line("@cert-authority *.example.com", 'f') + line("@revoked *", 'g') + line("web2", 'g') + line("[web3]:22", 'h') + line("WEB4", 'i')
	for _, row := range []struct {
		host      string
		port      int
		want      string
		authority string
	}{
		{"web1", 22, "a", ""}, {"web1", 0, "a", ""}, {"10.0.0.1", 22, "a", ""}, {"web1", 2022, "b", ""}, {"web1", 2023, "", ""}, {"WEB1", 22, "a", ""},
		{"x.example.com", 22, "c", "f"}, {"bad.example.com", 22, "", "f"}, {"example.com", 22, "", ""},
		{"secret.example.org", 22, "d", ""}, {"secret.example.org", 2022, "e", ""}, {"other.example.org", 22, "", ""},
		{"web2", 22, "", ""}, {"web3", 22, "h", ""}, {"web4", 22, "i", ""},
	} {
		keys, authorities, err := parseKnownHosts([]byte(file), row.host, row.port)
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string][]ssh.PublicKey{row.want: keys, row.authority: authorities} {
			switch {
			case what == "" && row.want == "" && row.authority == "" && len(keys)+len(authorities) > 0:
				t.Errorf("%s:%d: %d keys", row.host, row.port, len(got))
			case what != "" && (len(got) != 1 || string(got[0].Marshal()) != string(testKey(what[0]).Marshal())):
				t.Errorf("%s:%d: %v instead of key %s", row.host, row.port, got, what)
			}
		}
	}
	if _, _, err := parseKnownHosts([]byte("web1 ssh-ed25519 not-base64!\n"), "web1", 22); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a damaged line: %v", err)
	}
}

func FuzzKnownHosts(f *testing.F) {
	f.Add([]byte("web1 "+string(ssh.MarshalAuthorizedKey(testKey('a')))), "web1", 22)
	f.Add([]byte(hashedName("web1")+" "+string(ssh.MarshalAuthorizedKey(testKey('a')))), "web1", 22)
	f.Add([]byte("@revoked * ssh-ed25519"), "web1", 2022)
	f.Fuzz(func(t *testing.T, file []byte, host string, port int) {
		parseKnownHosts(file, host, port)
	})
}

// A pattern of stars takes no exponential time, and agrees with the plain definition.
func TestWildcard(t *testing.T) {
	if wildcard(strings.Repeat("*a", 50)+"b", strings.Repeat("a", 5000)) {
		t.Error("matched")
	}
	var plain func(p, s string) bool
	plain = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return plain(p[1:], s) || s != "" && plain(p, s[1:])
		}
		return s != "" && (p[0] == '?' || p[0] == s[0]) && plain(p[1:], s[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p, s := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "pattern"), rapid.StringMatching(`[ab]{0,8}`).Draw(t, "name")
		if wildcard(p, s) != plain(p, s) {
			t.Fatalf("%q on %q", p, s)
		}
	})
}

func TestWallClock(t *testing.T) {
	stat := []byte("cpu 1 2 3\nintr 5\nctxt 7\nbtime 1700000000\nprocesses 9\n")
	if now, known := wallClock(stat, []byte("1000.99 77.0\n")); !known || now != time.Unix(1700001000, 0).UTC() {
		t.Error(now, known)
	}
	for _, bad := range [][2]string{{"", "1.0 2"}, {"btime 5\n", ""}, {"btime x\n", "1.0"}, {"btime -5\n", "1.0"}, {"btime 5\n", "NaN"}, {"btime 5\n", "+Inf"},
		{"btime 5\n", "-1"}, {"btime 5\n", "1e300"}, {"btime 99999999999999999999\n", "1"}} {
		if now, known := wallClock([]byte(bad[0]), []byte(bad[1])); known {
			t.Errorf("%q: %v", bad, now)
		}
	}
}

// Whatever a server says of its limits, requests stay between what every server answers and the largest that pkg/sftp takes.
func TestPacketSizeIsSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "body")
		if n := packetFor(body); n < packetSmall || n > packetLarge {
			t.Fatalf("%x: %d", body, n)
		}
	})
	for want, limits := range map[int][2]uint64{packetLarge: {256 << 10, 255 << 10}, 64 << 10: {0, 64 << 10}, packetSmall: {34000, 32 << 10}, 100<<10 - 1024: {100 << 10, 0}} {
		var body []byte
		for _, v := range limits {
			body = append(body, byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		}
		if got := packetFor(body); got != want {
			t.Errorf("%v: %d instead of %d", limits, got, want)
		}
	}
}

func TestKindsOfModes(t *testing.T) {
	for mode, want := range map[uint32]Kind{0o100644: File, 0o040755: Directory, 0o120777: Symlink, 0o010600: Fifo, 0o140600: Socket, 0o020600: CharDevice,
		0o060600: BlockDevice, 0o170600: Unknown, 0o644: Unknown} {
		if a, why := attrFrom(mode, 0, 0, 0, 0); a.Kind != want || why != "" || a.Mode != mode&0o7777 {
			t.Errorf("%o: %+v", mode, a)
		}
	}
	if a, _ := attrFrom(0, 0, 0, 5, 0); a.ModeKnown || a.Kind != Unknown {
		t.Errorf("no mode: %+v", a)
	}
}

func ExampleJoin() {
	fmt.Println(Join("/", "etc"), Join("/etc", "x"))
	// Output: /etc /etc/x
}
