#!/bin/sh
# Installs Debian's packages: "python" what a virtual environment needs, "peers" the real peers of the tests.
# Where neither root nor sudo is there, it says what is missing and which tests will be left out, and goes on.
set -eu

if [ "$(id -u)" = 0 ]; then as_root=env; elif command -v sudo >/dev/null 2>&1; then as_root=sudo; else as_root=; fi

install() {
    if [ -z "$as_root" ]; then
        echo "neither root nor sudo here: install these Debian packages yourself: $*" >&2
        return 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "no apt-get here: install what these Debian packages bring: $*" >&2
        return 1
    fi
    echo "installing Debian packages: $*" >&2
    $as_root apt-get update -qq >&2
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

case "${1:-}" in
python)
    found=
    for p in python3 python3.13 python3.12 python3.11; do
        if command -v $p >/dev/null 2>&1 && $p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            found=$p
            break
        fi
    done
    [ -n "$found" ] || install python3 python3-venv
    ;;
peers)
    # package, command or file that it brings, tests that need it
    missing=
    while read -r package command tests; do
        if ! command -v "$command" >/dev/null 2>&1 && [ ! -x "/usr/sbin/$command" ] && ! ls $command >/dev/null 2>&1; then
            missing="$missing $package"
            echo "$command is missing (package $package): needed by $tests" >&2
        fi
    done <<TABLE
mosquitto mosquitto tests/link, tests/hub, tests/fault: a broker with TLS and ACL
socat socat tests/agent: a serial line
gir1.2-gst-rtsp-server-1.0 /usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib tests/agent: an RTSP camera
python3-gi /usr/lib/python3/dist-packages/gi tests/agent: RTSP and GigE cameras
gstreamer1.0-plugins-base /usr/lib/*/gstreamer-1.0/libgstvideotestsrc.so tests/agent: an RTSP camera
gstreamer1.0-plugins-good /usr/lib/*/gstreamer-1.0/libgstrtp.so tests/agent: an RTSP camera
gstreamer1.0-plugins-ugly /usr/lib/*/gstreamer-1.0/libgstx264.so tests/agent: an RTSP camera
gir1.2-aravis-0.8 /usr/lib/*/girepository-1.0/Aravis-0.8.typelib tests/agent: GigE cameras
aravis-tools arv-fake-gv-camera-0.8 tests/agent: a GigE camera
mbpoll mbpoll tests/agent: a PLC that polls, by libmodbus; its library drives the simulated PLC
zstd zstd tests/link: reads and makes our patches
bsdiff bspatch tests/link: reads and makes our patches
redis-server redis-server tests/runtime: the shared cache, single and as a cluster
postgresql /usr/lib/postgresql/*/bin/postgres tests/hub: results in PostgreSQL
mesa-vulkan-drivers /usr/share/vulkan/icd.d/lvp_icd.json tests/runtime: a Vulkan device in software
g++ g++ tests/runtime: an operator library for OpenVINO
faketime faketime tests/system: our updater at another time
mtools mcopy tests/boards: what our FAT writer wrote
dosfstools fsck.vfat tests/boards: FAT file systems
fdisk sfdisk tests/boards: partition tables
e2fsprogs debugfs tests/boards: ext4 inside images
xz-utils xz tests/boards: compressed images
libarchive13t64 /usr/lib/*/libarchive.so.13 tests/system: file systems made of archives
mmdebstrap mmdebstrap tests/boards: an arm64 tree to run our wheels in
arch-test arch-test tests/system: whether this machine runs arm64 programs, which a Debian image is built with
qemu-user-static qemu-aarch64-static tests/boards: arm64 programs on this processor
qemu-system-arm qemu-system-aarch64 tests/boards, tests/system: a board with the Pi 5's core
nbdkit nbdkit tests/boards, tests/system: a disk that forgets what was not flushed when its power is cut
qemu-utils qemu-io tests/boards: asks that disk
chromium-headless-shell chromium-headless-shell tests/demo, tests/lineside, tests/agent, tests/hub: reports and the operator screen in a real browser
openssh-server sshd tests/boards, tests/lineside: a board that is reached by SSH
prometheus promtool tests/hub: alert rules and the Grafana dashboard
sudo sudo tests/boards, tests/lineside: a user who may become root on a board
systemd systemd-analyze tests/agent: the units, and how far they are locked up
TABLE
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        install $missing || { echo "the tests named above will be left out, each says so" >&2; exit 0; }
        # The tests start their own servers; Debian's services would hold their ports.
        if command -v systemctl >/dev/null 2>&1; then $as_root systemctl disable --now mosquitto redis-server postgresql prometheus >/dev/null 2>&1 || true; fi
    fi
    ;;
*)
    echo "usage: install.sh python|peers" >&2
    exit 2
    ;;
esac
