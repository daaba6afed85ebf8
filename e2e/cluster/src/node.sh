# Run by the process that holds a node's namespaces, in them: makes the files a node's own, and stays.
# Arguments: name, folder of what is its own, address of DNS. Working folder: its data.
set -eu
name=$1 own=$2 dns=$3
echo "$name" >/proc/sys/kernel/hostname
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
for scope in all default; do
    echo 0 >/proc/sys/net/ipv4/conf/$scope/rp_filter
    echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_ra
done
# A bridge of pods must show kube-proxy's rules what it passes on. Only where the kernel can.
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
fi
# What a node or its pods write there stays with the node.
for folder in etc opt var; do
    mkdir -p "$own/$folder/upper" "$own/$folder/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$own/$folder/upper,workdir=$own/$folder/work" overlay "/$folder"
done
mkdir -p /etc/cni/net.d /etc/containerd /etc/kubernetes /opt/cni/bin /var/lib/kubelet /var/lib/containerd
# It may be a link to a file that the node does not have.
rm -f /etc/resolv.conf
echo "nameserver $dns" >/etc/resolv.conf
ln -s /usr/lib/cni/* /opt/cni/bin/
# An overlay cannot be a layer for containers' own overlays. Data lies below /var on the machine, so from here on that name
# leads into the overlay: the sources are named from the working folder, which is still the machine's, without resolving.
mkdir -p "$own/run"
mount -c --bind kubelet /var/lib/kubelet
mount -c --bind containerd /var/lib/containerd
mount -t bpf bpf /sys/fs/bpf
mount --bind "$own/run" /run
# Pods may share what they mount with the node (mountPropagation), and nobody with the machine.
mount --make-rshared /
echo ready
exec sleep infinity >/dev/null 2>&1
