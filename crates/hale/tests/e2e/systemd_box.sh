#!/bin/sh
# Becomes a systemd that is process 1 of its own namespaces, in which only the folder $1 is this machine's to write.
# Run behind `unshare --pid --fork --mount --cgroup --ipc --uts`, in a cgroup of its own.
set -e
place=$1
mount --make-rprivate /
mkdir "$place/root"
mount -t tmpfs -o mode=755 root "$place/root"
cd "$place/root"
mkdir etc proc sys dev run tmp var
mount -t tmpfs -o mode=1777 tmp tmp
# All other folders are this machine's: programs may be anywhere.
for entry in /*; do
    name=${entry#/}
    if [ -L "$entry" ]; then
        cp -P "$entry" "$name"
    elif [ -d "$entry" ] && [ ! -e "$name" ]; then
        mkdir "$name"
        mount --rbind -o ro "$entry" "$name"
    fi
done
# First of the places where systemd looks for programs, and usually empty.
mount -t tmpfs -o mode=755 programs usr/local/sbin
ln -s "$place/hale" usr/local/sbin/hale
mkdir -p ".$place"
mount --bind "$place" ".$place"
mkdir etc/hale
cp /etc/ld.so.cache etc/
cp -r "$place/systemd" etc/systemd
cp "$place/hale.toml" etc/hale/
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
printf 'root:x:0:\n' >etc/group
echo 0123456789abcdef0123456789abcdef >etc/machine-id
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom; do
    : >dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir old
pivot_root . old
umount -l old
rmdir old
exec env -i container=hale-test PATH=/usr/local/sbin:/usr/sbin:/usr/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --unit=box.target --show-status=0 </dev/null >/dev/null 2>&1
