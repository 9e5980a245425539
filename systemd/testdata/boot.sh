#!/bin/bash
# Boots a systemd of its own in private namespaces, over a copy-on-write view of this machine, installs the unit as
# docs/OPERATIONS.md says, and lets it run. Nothing outside the scratch directory changes.
#   boot.sh outer SCRATCH   SCRATCH holds: holdfast (the program), systemd/ (our files), boot.sh
# It ends when the daemon ran and was stopped; SCRATCH/report says what was seen.
set -eu
stage=$1 scratch=$2

case $stage in
outer) # in a private mount namespace: a cgroup of our own, then all other namespaces
	mkdir -p "$scratch/cgroup"
	mount -t cgroup2 none "$scratch/cgroup"
	group="$scratch/cgroup/holdfast-boot-$$"
	mkdir "$group"
	echo 0 > "$group/cgroup.procs"
	unshare --pid --net --uts --ipc --cgroup --mount --fork --kill-child bash "$0" inner "$scratch" &
	child=$!
	trap 'kill -KILL $child 2>/dev/null || true' EXIT INT TERM
	# The first process of the namespaces takes all others with it.
	for _ in {1..600}; do
		sleep 0.2
		if grep -q '^stop: ' "$scratch/report" 2>/dev/null || ! kill -0 $child 2>/dev/null; then break; fi
	done
	kill -KILL $child 2>/dev/null || true
	wait $child 2>/dev/null || true
	echo 0 > "$scratch/cgroup/cgroup.procs"
	for _ in {1..50}; do
		if find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; then break; fi
		sleep 0.1
	done
	;;
inner) # as the first process: a root of our own, and systemd in it
	root="$scratch/root"
	mount --make-rprivate /
	mkdir -p "$scratch/over" "$root"
	mount -t tmpfs tmpfs "$scratch/over"
	mkdir "$scratch/over/upper" "$scratch/over/work"
	mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/over/upper,workdir=$scratch/over/work" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t cgroup2 none "$root/sys/fs/cgroup"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	mount --rbind /dev "$root/dev"
	mkdir -p "$root/scratch" "$root/old"
	mount --bind "$scratch" "$root/scratch"
	cd "$root"
	pivot_root . old
	umount -l /old
	mount --make-rshared / # as on a machine: systemd hands out credentials through it
	exec bash /scratch/boot.sh install /scratch
	;;
install) # what an operator does
	export HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	install -m 0755 "$scratch/holdfast" /usr/local/bin/holdfast
	install -m 0644 "$scratch/systemd/holdfast.service" /etc/systemd/system/
	systemd-sysusers "$scratch/systemd/holdfast.sysusers"
	systemd-tmpfiles --create "$scratch/systemd/holdfast.tmpfiles"
	install -d -m 0700 /var/lib/holdfast
	holdfast init --vault /var/lib/holdfast/vault --recovery-out "$scratch/recovery.key"
	chown -R holdfast:holdfast /var/lib/holdfast
	ln -s "$(basename /etc/holdfast/unlock-*.key)" /etc/holdfast/unlock.key
	cat > /etc/holdfast/holdfast.yaml <<-YAML
		vault: /var/lib/holdfast/vault
		metrics: {listen: "127.0.0.1:9402"}
		door: {listen: "127.0.0.1:2222"}
	YAML
	chgrp holdfast /etc/holdfast/holdfast.yaml
	chmod 0640 /etc/holdfast/holdfast.yaml
	# No part of this machine's own boot: only our unit, its output into the report, and the witness.
	mkdir -p /etc/systemd/system/holdfast.service.d
	printf '[Unit]\nDefaultDependencies=no\nAfter=\nWants=\n[Service]\nStandardOutput=append:/scratch/journal\nStandardError=append:/scratch/journal\n' \
		> /etc/systemd/system/holdfast.service.d/boot.conf
	printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/bash /scratch/boot.sh witness /scratch\n' \
		> /etc/systemd/system/witness.service
	printf '[Unit]\nDefaultDependencies=no\nWants=holdfast.service witness.service\n' > /etc/systemd/system/boot.target
	export container=private
	exec /lib/systemd/systemd --system --unit=boot.target --log-target=null --show-status=no < /dev/null
	;;
witness) # beside the daemon: what an operator sees
	export HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	exec > "$scratch/report" 2>&1
	set +e
	systemctl start holdfast # returns once the daemon says that it is ready
	echo "start: $?"
	pid=$(systemctl show -P MainPID holdfast)
	echo "user: $(stat -c %U "/proc/$pid")"
	echo "capabilities: $(sed -n 's/^CapEff:\t//p; s/^CapBnd:\t//p' "/proc/$pid/status" | sort -u | tr '\n' ' ')"
	echo "no new privileges: $(sed -n 's/^NoNewPrivs:\t//p' "/proc/$pid/status")"
	echo "seccomp: $(sed -n 's/^Seccomp:\t//p' "/proc/$pid/status")"
	echo "root: $(ls "/proc/$pid/root" | tr '\n' ' ')"
	echo "etc: $(ls "/proc/$pid/root/etc" | tr '\n' ' ')"
	echo "shell: $(ls "/proc/$pid/root/bin/sh" 2>&1)"
	holdfast snapshots --json
	echo "snapshots: $?"
	holdfast check
	echo "check: $?"
	exec 3<>/dev/tcp/127.0.0.1/9402 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && grep -a '^holdfast_ledger_size' <&3
	systemctl stop holdfast
	echo "stop: $? $(systemctl show -P Result holdfast)"
	;;
esac
