# Run by the process that holds the hub's namespaces, in them, and stays.
# Arguments: folder of etcd.
set -eu
echo 1 >/proc/sys/net/ipv4/ip_forward
for scope in all default; do
    echo 0 >/proc/sys/net/ipv4/conf/$scope/rp_filter
done
# etcd waits for the disk at every write; what it holds here need not outlive the cluster.
mount -t tmpfs -o mode=0700 tmpfs "$1"
echo ready
exec sleep infinity >/dev/null 2>&1
