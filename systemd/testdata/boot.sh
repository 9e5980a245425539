#!/bin/bash
# Boots a systemd of its own in private namespaces, over a copy-on-write view of this machine, installs the units as
# docs/OPERATIONS.md says, and lets them run: a daemon that owns its vault first, then the keeper to which that vault moves.
# Nothing outside the scratch directory changes.
#   boot.sh outer SCRATCH   SCRATCH holds: holdfast, holdfast-keeper (the programs), systemd/ (our files), boot.sh
# It ends when both ran and were stopped; SCRATCH/report says what was seen.
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
	for _ in {1..700}; do
		sleep 0.2
		if grep -q '^end$' "$scratch/report" 2>/dev/null || ! kill -0 $child 2>/dev/null; then break; fi
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
	# A file system with flags of our own for the vault, as an operator would have.
	truncate -s 256M "$scratch/image"
	mkfs.ext4 -q -F "$scratch/image"
	mkdir -p "$root/var/lib/holdfast"
	mount -o loop "$scratch/image" "$root/var/lib/holdfast"
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
	rm -rf /etc/holdfast # in our copy: this machine may have a vault of its own
	install -m 0755 "$scratch/holdfast" "$scratch/holdfast-keeper" /usr/local/bin/
	mkdir -p /usr/local/lib/systemd/system
	install -m 0644 "$scratch/systemd/holdfast.service" "$scratch/systemd/holdfast-keeper.service" /usr/local/lib/systemd/system/
	install -D -m 0644 "$scratch/systemd/holdfast.sysusers" /usr/local/lib/sysusers.d/holdfast.conf
	install -D -m 0644 "$scratch/systemd/holdfast.tmpfiles" /usr/local/lib/tmpfiles.d/holdfast.conf
	systemd-sysusers holdfast.conf
	systemd-tmpfiles --create holdfast.conf
	# A machine without a keeper first.
	install -D -m 0644 "$scratch/systemd/without-keeper.conf" /etc/systemd/system/holdfast.service.d/without-keeper.conf
	holdfast init --vault /var/lib/holdfast/vault --recovery-out "$scratch/recovery.key"
	chown -R holdfast:holdfast /var/lib/holdfast/vault
	ln -s "$(basename /etc/holdfast/unlock-*.key)" /etc/holdfast/unlock.key
	cat > /etc/holdfast/holdfast.yaml <<-YAML
		vault: /var/lib/holdfast/vault
		metrics: {listen: "127.0.0.1:9402"}
		door: {listen: "127.0.0.1:2222"}
		sources:
		  - {name: web1, url: "sftp://root@127.0.0.1:2200/scratch/source", identity: keys/web1, known_hosts: known_hosts}
	YAML
	# A source of our own, for an sshd of our own.
	mkdir -p "$scratch/source" "$scratch/ssh"
	head -c 20000000 /dev/urandom > "$scratch/source/noise"
	cp -r "$scratch/systemd" "$scratch/source/"
	ssh-keygen -q -t ed25519 -N '' -f "$scratch/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f /etc/holdfast/keys/web1
	cp /etc/holdfast/keys/web1.pub "$scratch/ssh/authorized_keys"
	echo "[127.0.0.1]:2200 $(cut -d' ' -f1,2 "$scratch/ssh/host.pub")" > /etc/holdfast/known_hosts
	chgrp holdfast /etc/holdfast/keys/web1 /etc/holdfast/known_hosts
	chmod 0640 /etc/holdfast/keys/web1 /etc/holdfast/known_hosts
	printf '%s\n' 'ListenAddress 127.0.0.1:2200' "HostKey $scratch/ssh/host" "AuthorizedKeysFile $scratch/ssh/authorized_keys" 'PermitRootLogin yes' \
		'StrictModes no' 'UsePAM no' 'PidFile none' 'Subsystem sftp internal-sftp' > "$scratch/ssh/config"
	chgrp holdfast /etc/holdfast/holdfast.yaml
	chmod 0640 /etc/holdfast/holdfast.yaml
	# No part of this machine's own boot: only our units, their output into a file, and the witness.
	for unit in holdfast holdfast-keeper; do
		mkdir -p "/etc/systemd/system/$unit.service.d"
		printf '[Unit]\nDefaultDependencies=no\nAfter=\nWants=\n[Service]\nStandardOutput=append:/scratch/journal\nStandardError=append:/scratch/journal\n' \
			> "/etc/systemd/system/$unit.service.d/boot.conf"
	done
	printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/bash /scratch/boot.sh witness /scratch\n' \
		> /etc/systemd/system/witness.service
	printf '[Unit]\nDefaultDependencies=no\nWants=witness.service\n' > /etc/systemd/system/boot.target
	export container=private
	exec /lib/systemd/systemd --system --unit=boot.target --log-target=null --show-status=no < /dev/null
	;;
witness) # beside them: what an operator does and sees
	export HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	exec > "$scratch/report" 2>&1
	set +e
	trap 'echo end' EXIT # also where this script is wrong
	mkdir -p /run/sshd
	/usr/sbin/sshd -f "$scratch/ssh/config"
	look() { # WHAT UNIT: how it runs
		pid=$(systemctl show -P MainPID "$2")
		echo "$1 user: $(stat -c %U:%G "/proc/$pid/task/$pid/comm" 2>/dev/null || true) $(ps -o user:20=,group:20= -p "$pid" | tr -s ' ')"
		echo "$1 capabilities: $(sed -n 's/^Cap[A-Z][a-z]*:\t//p' "/proc/$pid/status" | sort -u | tr '\n' ' ')"
		echo "$1 no new privileges: $(sed -n 's/^NoNewPrivs:\t//p' "/proc/$pid/status")"
		echo "$1 seccomp: $(sed -n 's/^Seccomp:\t//p' "/proc/$pid/status")"
		echo "$1 root: $(ls "/proc/$pid/root" | tr '\n' ' ')"
		echo "$1 etc: $(ls "/proc/$pid/root/etc" | tr '\n' ' ')"
		echo "$1 shell: $(ls "/proc/$pid/root/bin/sh" 2>&1)"
		echo "$1 interfaces: $(sed -n 's/^ *\([a-z0-9]*\):.*/\1/p' "/proc/$pid/net/dev" | tr '\n' ' ')"
	}
	pull() { # WHAT: pull and give back
		holdfast pull web1
		echo "$1pull: $?"
		rm -rf /tmp/back
		holdfast restore web1@latest --to /tmp/back && diff -r /tmp/back "$scratch/source"
		echo "$1restore: $?"
	}
	metric() { exec 3<>/dev/tcp/127.0.0.1/9402 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && grep -a '^holdfast_ledger_size' <&3; }

	together() { # PREFIX: both run
		look "${1-}daemon" holdfast
		look "${1-}keeper" holdfast-keeper
		echo "${1-}keeper status: $(systemctl show -P StatusText holdfast-keeper)"
		runuser -u holdfast-keeper -- holdfast-keeper status
		echo "${1-}keeper asked: $?"
		pull "${1-}"
		holdfast snapshots
		echo "${1-}snapshots: $?"
		holdfast check
		echo "${1-}check: $?"
		echo "${1-}$(metric)"
		echo "${1-}vault: $(findmnt -N "$(systemctl show -P MainPID holdfast)" -n -o OPTIONS -T /var/lib/holdfast/vault | cut -d, -f1)"
	}

	systemctl mask holdfast-keeper
	systemctl start holdfast # returns once the daemon says that it is ready
	echo "alone start: $?"
	look alone holdfast
	pull "alone "
	holdfast snapshots
	echo "alone snapshots: $?"
	holdfast check
	echo "alone check: $?"
	echo "alone $(metric)"
	systemctl stop holdfast
	echo "alone stop: $? $(systemctl show -P Result holdfast)"
	systemctl unmask holdfast-keeper

	# The vault moves under the keeper, by the commands of docs/OPERATIONS.md.
	bash "$scratch/move.sh"
	echo "move: $?"
	together
	systemctl restart holdfast-keeper
	echo "keeper restart: $?"
	holdfast check
	echo "check after it: $?"
	systemctl stop holdfast
	echo "daemon stop: $? $(systemctl show -P Result holdfast)"
	systemctl stop holdfast-keeper
	echo "keeper stop: $? $(systemctl show -P Result holdfast-keeper)"

	# And a new one is made with the keeper, by those commands.
	chattr -R -f -i -a /var/lib/holdfast/vault
	find /var/lib/holdfast/vault /var/lib/holdfast/work -mindepth 1 -delete
	rm /etc/holdfast/unlock*.key
	mkdir -p /media/usb
	bash "$scratch/make.sh"
	echo "make: $?"
	together new-
	stat -c 'recovery: %a %s' /media/usb/recovery.key

	# It goes on on a second disk, by those commands.
	truncate -s 256M "$scratch/image2"
	mkfs.ext4 -q -F "$scratch/image2"
	mkdir -p /srv/disk2
	mount -o loop "$scratch/image2" /srv/disk2
	bash "$scratch/place.sh"
	echo "place: $?"
	head -c 3000000 /dev/urandom > "$scratch/source/more"
	together place-
	echo "place packs: $(ls /srv/disk2/holdfast/packs | wc -l)"
	echo "place mount: $(findmnt -N "$(systemctl show -P MainPID holdfast)" -n -o OPTIONS -T /srv/disk2/holdfast | cut -d, -f1)"
	systemctl stop holdfast holdfast-keeper
	;;
esac
