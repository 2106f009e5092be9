#!/usr/bin/env bash
# Process 1 of a test host: gives it files of its own, then serves ssh until it is killed.
# hosts.py starts it in new namespaces. Arguments: the host's folder, address, shared folder, then
# paths that stay as they are although they lie below /root or /tmp.
set -euo pipefail
folder=$1 address=$2 shared=$3
shift 3

hostname "$(basename "$folder")"
mount --make-rprivate /
for path in "$@"; do
  for top in /root /tmp; do
    [[ $path == "$top"/* ]] || continue
    inside=$folder$path
    mkdir -p "$inside"
    mount --rbind "$path" "$inside"
  done
done
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount --bind "$folder/etc-hosts" /etc/hosts
mount --bind "$shared" /srv
mount --rbind "$folder/root" /root
mount --rbind "$folder/tmp" /tmp
cd /root

mkdir /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /run/host-key
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done # hosts.py plugs the cable in
ip address add "$address/24" dev eth0
# No PAM and no checks of the home's owner: these hosts live for one test.
env -i HOME=/root PATH="$PATH" /usr/sbin/sshd -D -e -f /dev/null \
  -o ListenAddress="$address" -o HostKey=/run/host-key -o PidFile=none \
  -o PasswordAuthentication=no -o UsePAM=no -o StrictModes=no -o UseDNS=no \
  -o MaxStartups=100 -o MaxSessions=100 &
touch /run/ready
while :; do wait -n 2>/dev/null || sleep 1; done # takes in orphans, as process 1 has to
