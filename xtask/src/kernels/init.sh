#!/bin/busybox sh
# The first process of an emulated machine: runs the tests, tells how they ended, and switches
# the machine off. Whatever else happens, the one who waits finds no line that says how they ended.
#
# The console is the first serial port, the results go to the second.

PATH=/usr/sbin:/usr/bin
HOME=/root
# Times that hold in production are too short for an emulated machine on a busy host.
POSTERN_TEST_SLOWNESS=10
export PATH HOME POSTERN_TEST_SLOWNESS

end() {
    busybox sync
    busybox poweroff -f
}

must() {
    "$@" || {
        echo "init: failed: $*"
        end
    }
}

must busybox mount -t proc proc /proc
must busybox mount -t sysfs sysfs /sys
must busybox mount -t devtmpfs devtmpfs /dev
must busybox mkdir -p /dev/pts /dev/shm
must busybox mount -t devpts devpts /dev/pts
must busybox mount -t tmpfs tmpfs /dev/shm
# /run and /tmp are in memory already, as everything else is; the tests may lie below /tmp.
must busybox mount -t bpf bpf /sys/fs/bpf
must busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
must busybox ln -s /proc/self/fd /dev/fd
must busybox ip link set lo up
for module in $(busybox cat /postern/order); do
    must busybox insmod "/postern/modules/$module.ko"
done

# As on a machine with a service manager; the kernel's own limit is for small systems.
ulimit -n 524288

results=/dev/ttyS1
must busybox stty -F "$results" raw
token=$(busybox cat /postern/token)
echo "$token kernel $(busybox uname -r)" >"$results"

# shellcheck disable=SC2046 # names of tests have no spaces
"$(busybox cat /postern/program)" --show-output --exact $(busybox cat /postern/tests) \
    >"$results" 2>&1
echo "$token ended $?" >"$results"
end
