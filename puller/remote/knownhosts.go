package remote

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ParseKnownHosts returns the keys that a known_hosts file of OpenSSH pins for a host. Keys marked @revoked are never among them. No key at
// all is an error that says so.
func ParseKnownHosts(file, host string, port int) ([]ssh.PublicKey, error) {
	keys, authorities, err := readKnownHosts(file, host, port)
	if err == nil && len(keys) == 0 {
		hint := ""
		if len(authorities) > 0 {
			hint = ", only an authority for host certificates"
		}
		err = fmt.Errorf("%q has no key for %q port %d%s: add it with ssh-keyscan and compare its fingerprint on the host's console", file, host, port, hint)
	}
	return keys, err
}

// ParseKnownAuthorities returns the @cert-authority keys of a known_hosts file for a host; none is not an error.
func ParseKnownAuthorities(file, host string, port int) ([]ssh.PublicKey, error) {
	_, authorities, err := readKnownHosts(file, host, port)
	return authorities, err
}

func readKnownHosts(file, host string, port int) (keys, authorities []ssh.PublicKey, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	keys, authorities, err = parseKnownHosts(text, host, port)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", file, err)
	}
	return keys, authorities, nil
}

func parseKnownHosts(text []byte, host string, port int) (keys, authorities []ssh.PublicKey, err error) {
	address := knownName(host, port)
	revoked := map[string]bool{}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		marker, patterns, key, _, _, err := ssh.ParseKnownHosts(line)
		if errors.Is(err, io.EOF) {
			continue // blank or a comment
		}
		if err != nil {
			return nil, nil, fmt.Errorf("line %d is not a line of known_hosts: %w", number, err)
		}
		switch {
		case marker == "revoked":
			revoked[string(key.Marshal())] = true // wherever it was seen
		case !matchHosts(patterns, address):
		case marker == "cert-authority":
			authorities = append(authorities, key)
		default:
			keys = append(keys, key)
		}
	}
	good := func(all []ssh.PublicKey) (rest []ssh.PublicKey) {
		for _, k := range all {
			if !revoked[string(k.Marshal())] {
				rest = append(rest, k)
			}
		}
		return rest
	}
	return good(keys), good(authorities), nil
}

// knownName is how known_hosts writes a host: bare on port 22, [host]:port otherwise.
func knownName(host string, port int) string {
	host = strings.ToLower(host)
	if port == 0 || port == 22 {
		return host
	}
	return "[" + host + "]:" + strconv.Itoa(port)
}

// matchHosts applies the patterns of one line: a match of a negated one forbids the line.
func matchHosts(patterns []string, address string) bool {
	found := false
	for _, p := range patterns {
		negated := strings.HasPrefix(p, "!")
		p = strings.TrimPrefix(p, "!")
		matched := false
		if strings.HasPrefix(p, "|") {
			matched = matchHashed(p, address)
		} else {
			matched = wildcard(plainPort(strings.ToLower(p)), address)
		}
		if matched && negated {
			return false
		}
		found = found || matched
	}
	return found
}

// plainPort takes the brackets off a pattern that names the standard port.
func plainPort(p string) string {
	if host, ok := strings.CutSuffix(p, "]:22"); ok && strings.HasPrefix(host, "[") {
		return host[1:]
	}
	return p
}

// matchHashed compares |1|base64 salt|base64 HMAC-SHA-1 of the name|.
func matchHashed(p, address string) bool {
	parts := strings.Split(p, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	want, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(address))
	return hmac.Equal(mac.Sum(nil), want)
}

// wildcard matches * and ? in time proportional to the product of the lengths at worst.
func wildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
