# Sourced by the scripts beside it: progress, time, and one clear error.
# What a test says at its end must be what failed: anyhow prints a backtrace of forty lines after each cause otherwise.
export RUST_BACKTRACE=0
say() { printf '\n==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
stage_names=() stage_seconds=()
# stage NAME COMMAND...: runs it, remembers how long it took.
stage() {
    local name=$1 start=$SECONDS
    shift
    say "$name"
    "$@"
    stage_names+=("$name") stage_seconds+=($((SECONDS - start)))
}
times() {
    say "where the time went"
    local i
    for i in "${!stage_names[@]}"; do printf '%6d s  %s\n' "${stage_seconds[$i]}" "${stage_names[$i]}"; done
}
# Shows how far a `go build -v` is; what is neither a package nor a download is its complaint.
count_packages() {
    awk '/^go: downloading/ { next }
         !/[ :]/ { if (++n % 100 == 0) { print "    " n " packages compiled"; fflush() } next }
         { print > "/dev/stderr" }'
}
