package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-vault/holdfast/bench/lab"
)

// programs are what each tool needs, and the Debian packages that have them.
var programs = map[string][][2]string{
	us:     {{"sshd", "openssh-server"}, {"ssh-keygen", "openssh-client"}},
	kept:   {{"sshd", "openssh-server"}, {"ssh-keygen", "openssh-client"}},
	rsync:  {{"rsync", "rsync"}, {"ssh", "openssh-client"}},
	rclone: {{"rclone", "rclone"}},
	sftp:   {{"sftp", "openssh-client"}, {"ssh", "openssh-client"}},
	restic: {{"restic", "restic"}, {"sshfs", "sshfs"}, {"fusermount3", "fuse3"}},
	borg:   {{"borg", "borgbackup"}, {"sshfs", "sshfs"}, {"fusermount3", "fuse3"}},
}

// provide installs what is missing, if it may. A tool that is missing in the end is marked in the tables, and we are not
// measured without sshd.
func provide(ctx context.Context, o options, tools []string) error {
	if o.newer {
		if err := buildNewer(ctx, o, tools); err != nil {
			return err
		}
	}
	var missing []string
	for _, tool := range tools {
		for _, p := range programs[tool] {
			if lab.Find(p[0], o.tools) == "" && !slices.Contains(missing, p[1]) {
				missing = append(missing, p[1])
			}
		}
	}
	apt := lab.Find("apt-get")
	switch {
	case len(missing) == 0:
		return nil
	case !o.install || os.Geteuid() != 0 || apt == "":
		say("not installed, and not to be installed by this user or with these flags: %s", strings.Join(missing, " "))
		return nil
	}
	say("installing %s with apt-get", strings.Join(missing, " "))
	env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-q", "-y", "--no-install-recommends"}, missing...)} {
		if _, _, err := lab.Run(ctx, lab.Command{Path: apt, Args: args, Env: env}); err != nil {
			return err
		}
	}
	return nil
}

// newer are tools that Debian has only in an old release: module, version, package in it. The versions are named, so that
// two benches a month apart measure the same.
var newer = map[string][3]string{
	restic: {"github.com/restic/restic", "v0.19.1", "cmd/restic"},
	rclone: {"github.com/rclone/rclone", "v1.76.0", ""},
}

// buildNewer builds them, checked against Go's checksum database. What was built once is kept; for what cannot be built, what is
// installed has to do.
func buildNewer(ctx context.Context, o options, tools []string) error {
	for tool, m := range newer {
		program := filepath.Join(o.tools, tool)
		if _, err := os.Stat(program); err == nil || !slices.Contains(tools, tool) {
			continue
		}
		say("building %s %s into %s; that takes minutes", tool, m[1], o.tools)
		if err := buildModule(ctx, m, program); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			say("%s %s could not be built, so the one that is installed is measured: %v", tool, m[1], err)
		}
	}
	return nil
}

// buildModule builds a package of a module at a version, from a module of its own: `go install` of a package asks the proxy for
// modules that do not exist first, and not every proxy says so in a way that it understands.
func buildModule(ctx context.Context, m [3]string, program string) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-build-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return err
	}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	for _, args := range [][]string{
		{"mod", "init", "build"}, {"get", m[0] + "@" + m[1]}, {"build", "-trimpath", "-o", program, path.Join(m[0], m[2])},
	} {
		if _, _, err := lab.Run(ctx, lab.Command{Path: lab.Find("go"), Args: args, Dir: dir, Env: env}); err != nil {
			return err
		}
	}
	return nil
}

// versionArgs make each program say its version.
var versionArgs = map[string][]string{
	us: {"version"}, kept: {"version"}, rsync: {"--version"}, rclone: {"version"}, sftp: {"-V"}, restic: {"version"}, borg: {"--version"}, "sshfs": {"--version"},
}

// version is what a program says of itself, in its first line.
func version(ctx context.Context, st *station, tool string) string {
	path := st.find(tool)
	if tool == sftp {
		path = st.find("ssh") // sftp tells no version, and is of the same package
	}
	if path == "" {
		return "not installed"
	}
	// ssh says it where errors go.
	c := lab.Command{Path: lab.Find("sh"), Args: append([]string{"-c", `exec "$0" "$@" 2>&1`, path}, versionArgs[tool]...), Env: lab.Env(st.dir)}
	out, _, err := lab.Run(ctx, c)
	if err != nil {
		return err.Error()
	}
	for line := range bytes.Lines(out) {
		if tool != "sshfs" || bytes.HasPrefix(line, []byte("SSHFS")) {
			return strings.Join(strings.Fields(string(line)), " ")
		}
	}
	return "said nothing of its version"
}

// machine describes where all this was measured, a line each.
func machine(ctx context.Context, st *station, tools []string) (out []string) {
	out = append(out, fmt.Sprintf("%s, %d cores, %d MiB of memory, Linux %s, working directory on %s",
		field("/proc/cpuinfo", "model name"), runtime.NumCPU(), memTotal()>>20, firstLine("/proc/sys/kernel/osrelease"), filesystem(st.dir)))
	for _, tool := range tools {
		out = append(out, tool+": "+version(ctx, st, tool))
	}
	if git := lab.Find("git"); git != "" {
		commit, _, err := lab.Run(ctx, lab.Command{Path: git, Args: []string{"describe", "--always", "--dirty"}, Env: os.Environ()})
		if err == nil {
			out = append(out, "holdfast is built from "+trimmed(commit))
		}
	}
	if slices.Contains(tools, restic) || slices.Contains(tools, borg) {
		out = append(out, "sshfs: "+version(ctx, st, "sshfs"))
	}
	if why := lab.NoFUSE(); why != "" {
		out = append(out, "restic and borg cannot read through sshfs here: "+why)
	}
	return append(out, "sshd: "+version(ctx, st, sftp))
}

func firstLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "?"
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func field(file, name string) string {
	b, _ := os.ReadFile(file) // missing on other kernels: then it is not known
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown " + name
}

func memTotal() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// load is the machine's load averages: how quiet it was.
func load() string {
	f := strings.Fields(firstLine("/proc/loadavg"))
	return strings.Join(f[:min(3, len(f))], " ")
}

func filesystem(dir string) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return "?"
	}
	names := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x2fc12fc1: "zfs", 0x794c7630: "overlayfs"}
	if name, ok := names[int64(fs.Type)]; ok {
		return name
	}
	return fmt.Sprintf("filesystem %#x", fs.Type)
}
