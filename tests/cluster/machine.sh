#!/bin/bash
# One machine that a test makes of this one: systemd as its first process, in namespaces and control groups of its own.
#
#   machine.sh boot NAME FOLDER ROOT    in the network namespace of the machine; does not return while it runs
#   machine.sh sweep NAME               removes its control groups when it has ended
#
# ROOT is a Debian that all machines share; what one changes lies in FOLDER, and outlives its death.
set -eu
HIERARCHIES="cpu cpuacct cpuset memory devices freezer blkio pids systemd unified"
GROUPS_ROOT=/sys/fs/cgroup

boot() {
  local name=$1 each
  for each in $HIERARCHIES; do
    mkdir -p "$GROUPS_ROOT/$each/$name"
    if [ "$each" = cpuset ]; then  # It takes no process before it has processors and memory.
      for file in cpuset.cpus cpuset.mems; do cat "$GROUPS_ROOT/cpuset/$file" > "$GROUPS_ROOT/cpuset/$name/$file"; done
    fi
    echo $$ > "$GROUPS_ROOT/$each/$name/cgroup.procs"
  done
  exec unshare --cgroup --mount --uts --ipc --pid --fork --kill-child --propagation private bash "$0" inside "$@"
}

inside() {
  local name=$1 folder=$2 root=$3 top=$2/root each
  mkdir -p "$folder/upper" "$folder/work" "$folder/docker" "$top"
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" "$top"
  mount -t proc proc "$top/proc"
  mount -t sysfs -o ro sysfs "$top/sys"
  # What belongs to the whole machine is read-only; what belongs to the network is this one's own.
  mount --bind "$top/proc/sys" "$top/proc/sys"
  mount -o remount,bind,ro "$top/proc/sys"
  mount --bind /proc/sys/net "$top/proc/sys/net"
  mount -t tmpfs -o mode=755 tmpfs "$top$GROUPS_ROOT"
  for each in $HIERARCHIES; do
    mkdir "$top$GROUPS_ROOT/$each"
    case $each in
      unified) mount -t cgroup2 cgroup2 "$top$GROUPS_ROOT/$each" ;;
      systemd) mount -t cgroup -o none,name=systemd cgroup "$top$GROUPS_ROOT/$each" ;;
      *) mount -t cgroup -o "$each" cgroup "$top$GROUPS_ROOT/$each" ;;
    esac
  done
  mount -t tmpfs -o mode=755 tmpfs "$top/dev"
  for each in null zero full random urandom tty; do touch "$top/dev/$each"; mount --bind "/dev/$each" "$top/dev/$each"; done
  mkdir "$top/dev/pts" "$top/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$top/dev/pts"
  ln -s pts/ptmx "$top/dev/ptmx"
  ln -s /proc/self/fd "$top/dev/fd"
  for each in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${each%:*}" "$top/dev/${each#*:}"; done
  mount -t tmpfs -o mode=1777 tmpfs "$top/dev/shm"
  mount -t tmpfs -o mode=755 tmpfs "$top/run"
  mount -t tmpfs -o mode=1777 tmpfs "$top/tmp"
  # Docker's own overlays do not lie on an overlay.
  mkdir -p "$top/var/lib/docker"
  mount --bind "$folder/docker" "$top/var/lib/docker"
  echo "${name##*-}" > "$top/etc/hostname"
  hostname "${name##*-}"
  mkdir -p "$top/mnt"
  cd "$top"
  pivot_root . mnt
  umount -l /mnt
  # The clock and the modules are those of all.
  exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    setpriv --bounding-set=-sys_time,-sys_module /sbin/init systemd.unified_cgroup_hierarchy=0
}

sweep() {
  local each
  for each in $HIERARCHIES; do
    [ ! -e "$GROUPS_ROOT/$each/$1" ] || find "$GROUPS_ROOT/$each/$1" -depth -type d -exec rmdir {} +
  done
}

"$@"
