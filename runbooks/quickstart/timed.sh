#!/usr/bin/env bash
# timed.sh FOLDER [CORES]: clones this repository into FOLDER and runs `make setup` and `make quickstart` there as on a
# fresh Linux machine: empty environment and home, no OpenBLAS of the system's, and, where CORES is given (0.5), all
# processes of the quickstart held to so much of the machine. Each line with the second it came in; wall and CPU seconds
# and the machine's load after each part. Needs root, for a control group and a mount namespace of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir "$1" && folder=$(cd "$1" && pwd) && cores=${2:-}
group=vigil-timed-$$
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    cpu=/sys/fs/cgroup/$group accounts=$cpu && mkdir "$cpu"
    spent() { awk '/usage_usec/ {print $2 / 1000000}' "$cpu/cpu.stat"; }
    hold() { awk -v cores="$1" 'BEGIN {printf "%d 100000\n", cores * 100000}' >"$cpu/cpu.max"; }
else
    cpu=/sys/fs/cgroup/cpu/$group accounts=/sys/fs/cgroup/cpuacct/$group && mkdir "$cpu" "$accounts"
    spent() { awk '{print $1 / 1000000000}' "$accounts/cpuacct.usage"; }
    hold() { awk -v cores="$1" 'BEGIN {printf "%d\n", cores * 100000}' >"$cpu/cpu.cfs_quota_us"; }
fi
enter() { for place in "$cpu" "$accounts"; do echo $$ >"$place$1/cgroup.procs"; done; }
leave() { enter /.. && rmdir "$cpu" "$accounts" 2>/dev/null || true; }
enter "" && trap leave EXIT
fresh() {
    unshare -m env -i HOME="$folder/home" PATH="$PATH" bash -c '
        mount --make-rprivate /
        for place in /usr/lib/*/openblas-*; do [ -d "$place" ] && mount -t tmpfs none "$place"; done
        exec "$@"' bash "$@" 2>&1
}
clocked() { while IFS= read -r line; do printf '%5d s | %s\n' "$SECONDS" "${line//"$folder"/FOLDER}"; done; }
told() { printf '%s: %d s wall, %.0f s of CPU so far; load %s\n' "$1" "$SECONDS" "$(spent)" "$(cut -d' ' -f1-3 /proc/loadavg)"; }
git clone -q "$here" "$folder/clone" && mkdir "$folder/home" && cd "$folder/clone"
git log -1 --format='commit %h'
SECONDS=0
told begun
fresh make setup | clocked
told installed
[ -z "$cores" ] || { hold "$cores" && echo "from here on held to $cores of $(nproc) cores"; }
fresh make quickstart | clocked
told ended
