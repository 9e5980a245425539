package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

const (
	signatureBegin = "-----BEGIN SSH SIGNATURE-----"
	signatureEnd   = "-----END SSH SIGNATURE-----"
	// signatureMax bounds one signature's file; the largest, of an RSA key of 16384 bits, takes 6 KiB.
	signatureMax = 32 << 10
	broughtMax   = quorum.MaxRequest + quorum.MostPeople*signatureMax
)

func verbRequestSubmit() *verb {
	return &verb{
		use: "request-submit FILE [--signature FILE]...", short: "Bring a request that enough people signed", min: 1, max: 1, access: writeAccess, keyless: true,
		roles: []config.Role{config.Requester, config.Approver, config.Operator},
		long: `Bring FILE, a request made by "holdfast request make", with the signatures of enough people. Without
--signature they are the files beside it whose names begin with its own and end in .sig: request.json.sig,
request.json.anna.sig. FILE - reads the request from standard input, and the signatures behind it, as
"cat request.json request.json*.sig" gives them; that is the way through the door.

It is refused unless everything about it is right: the vault, the time, the signatures of enough different
people in force, that it could be carried out now. One bad signature among enough good ones refuses it too.
Once it is in the ledger it waits for 72 hours, and anybody who may run commands can stop it until then:
"holdfast request veto". Then the vault carries it out by itself.`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.StringArray("signature", nil, "`FILE` of a signature (default every FILE*.sig)")
			byFlag(f)
		},
		prepare: prepareBy,
		feed:    gatherRequest,
		run:     runSubmit,
	}
}

// gatherRequest reads request and signatures where the user is; they travel as one stream.
func gatherRequest(f *pflag.FlagSet, args []string) ([]byte, error) {
	files, err := f.GetStringArray("signature")
	if err != nil {
		return nil, err
	}
	if args[0] == "-" {
		if len(files) > 0 {
			return nil, usage("request submit: with - the signatures come behind the request; leave --signature out")
		}
		return nil, nil
	}
	request, err := readSmall(args[0], quorum.MaxRequest)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(files) == 0 {
		if files, err = signaturesBeside(args[0]); err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("no signature lies beside %q: people sign it with ssh-keygen -Y sign (holdfast request sign-with says how), and FILE.*.sig are taken, or --signature FILE", args[0])
		}
	}
	out := request
	for _, name := range files {
		signature, err := readSmall(name, signatureMax)
		if err != nil {
			return nil, fmt.Errorf("signature: %w", err)
		}
		if !bytes.HasPrefix(bytes.TrimSpace(signature), []byte(signatureBegin)) {
			return nil, fmt.Errorf("signature: %q is none: ssh-keygen -Y sign writes one, beginning with %s", name, signatureBegin)
		}
		out = append(append(out, bytes.TrimSpace(signature)...), '\n')
	}
	args[0] = "-"
	if s, ok := f.Lookup("signature").Value.(pflag.SliceValue); ok {
		return out, s.Replace(nil)
	}
	return out, nil
}

// signaturesBeside finds FILE.sig and FILE.*.sig, by name. There may be none.
func signaturesBeside(file string) (out []string, err error) {
	dir, base := filepath.Split(file)
	entries, err := os.ReadDir(filepath.Clean("./" + dir))
	if filepath.IsAbs(dir) {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for signatures beside %q: %w", file, err)
	}
	for _, e := range entries {
		if n := e.Name(); n != base && strings.HasPrefix(n, base+".") && strings.HasSuffix(n, ".sig") {
			out = append(out, dir+n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// readSmall reads a file that a person made, and not one that never ends.
func readSmall(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %q", name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%q has more than %d bytes", name, most)
	}
	return b, err
}

// splitRequest takes a stream apart: the request, and the signatures behind it.
func splitRequest(stream []byte) (request []byte, signatures [][]byte, err error) {
	at := bytes.Index(stream, []byte("\n"+signatureBegin))
	if at < 0 {
		return nil, nil, errors.New("no signature comes behind the request: cat request.json request.json*.sig")
	}
	request, rest := stream[:at+1], stream[at+1:]
	for {
		if rest = bytes.TrimSpace(rest); len(rest) == 0 {
			return request, signatures, nil
		}
		end := bytes.Index(rest, []byte(signatureEnd))
		if !bytes.HasPrefix(rest, []byte(signatureBegin)) || end < 0 {
			return nil, nil, fmt.Errorf("signature %d has no beginning or no end", len(signatures)+1)
		}
		if len(signatures) == quorum.MostPeople {
			return nil, nil, fmt.Errorf("more than %d signatures", quorum.MostPeople)
		}
		signatures = append(signatures, append(bytes.Clone(rest[:end+len(signatureEnd)]), '\n'))
		rest = rest[end+len(signatureEnd):]
	}
}

func runSubmit(ctx context.Context, c *call) error {
	if c.args[0] != "-" { // at the door, whose users have no files here
		return usage("request submit: send the request on standard input: cat request.json request.json*.sig | ssh ... request-submit -")
	}
	stream, err := io.ReadAll(io.LimitReader(c.in, broughtMax+1))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if len(stream) > broughtMax {
		return usage("request submit: more than %d bytes", broughtMax)
	}
	request, signatures, err := splitRequest(stream)
	if err != nil {
		return err
	}
	r, err := c.view.v.Store().Submit(ctx, request, signatures, c.by())
	if err != nil {
		return err
	}
	j := newRequestJSON(r)
	if c.json() {
		return writeJSON(c.out, j)
	}
	_, err = fmt.Fprintf(c.out, "Request %s (%s), signed by %s, is record %d of the ledger.\n%s\n", shortID(r.ID), r.Request.Action, j.signers(), r.Seq, j.fate())
	return err
}
