package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// pins decides whether a host key is the one that was enrolled.
type pins struct {
	addr        string
	keys        []ssh.PublicKey
	authorities []ssh.PublicKey
}

// algorithms lists the host key algorithms to offer: those of the pinned keys first, since a server with several keys shows the one that
// we prefer; all others after them, so that a server whose key changed its type shows it, and can be named in the refusal.
func (p pins) algorithms() []string {
	var first []string
	if len(p.authorities) > 0 {
		first = append(first, certificateAlgorithms[:]...)
	}
	for _, k := range p.keys {
		first = append(first, algorithmsOf(k.Type())...)
	}
	all := append(first, ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
	var unique []string
	for _, a := range all {
		if !slices.Contains(unique, a) {
			unique = append(unique, a)
		}
	}
	return unique
}

var certificateAlgorithms = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
	ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
}

// algorithmsOf leaves SHA-1 out: an RSA key signs with SHA-2 or not at all.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// check is the ssh.HostKeyCallback.
func (p pins) check(hostname string, remote net.Addr, key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		return p.checkCertificate(hostname, remote, cert)
	}
	for _, k := range p.keys {
		if bytes.Equal(k.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return p.refuse(ssh.FingerprintSHA256(key))
}

func (p pins) checkCertificate(hostname string, remote net.Addr, cert *ssh.Certificate) error {
	checker := ssh.CertChecker{IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
		return slices.ContainsFunc(p.authorities, func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), auth.Marshal()) })
	}}
	if err := checker.CheckHostKey(hostname, remote, cert); err != nil {
		return p.refuse(fmt.Sprintf("%s with a certificate that is not good: %s", ssh.FingerprintSHA256(cert.Key), plain(err)))
	}
	return nil
}

func (p pins) refuse(got string) error {
	e := &HostKeyError{Host: p.addr, Got: got}
	for _, k := range p.keys {
		e.Want = append(e.Want, ssh.FingerprintSHA256(k))
	}
	for _, k := range p.authorities {
		e.Want = append(e.Want, "authority "+ssh.FingerprintSHA256(k))
	}
	return e
}

var errKeySeen = errors.New("host key seen")

// FetchHostKey asks a host for its key, to be shown to a person and compared on the host's console before it is pinned. It ends before
// it logs in, which some servers count against a client: it is for enrolment, not for every day.
func FetchHostKey(ctx context.Context, host string, port int) (ssh.PublicKey, error) {
	limits := DefaultLimits()
	ctx, cancel := context.WithTimeout(ctx, limits.HandshakeTimeout)
	defer cancel()
	addr := Config{Host: host, Port: port}.addr()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("host %q: %w", addr, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	var seen ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:              "holdfast",
		HostKeyAlgorithms: pins{}.algorithms(),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errKeySeen
		},
	})
	switch {
	case seen != nil:
		return seen, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("host %q: no host key within %v: %w", addr, limits.HandshakeTimeout, ctx.Err())
	}
	return nil, fmt.Errorf("host %q: no host key: %s", addr, plain(err))
}
