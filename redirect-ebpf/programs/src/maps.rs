//! The maps. User space pins them by these names.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, SkStorage, SockHash};
use aya_ebpf::macros::btf_map;
use redirect_abi::{
    AddressKey, Counters, Destination, Kubelet, LinkKey, ListenerKey, Meta, OldSocket, PodValue, ProbeKey, ProbeValue,
    ProxyTag, Slots, SlotsKey,
};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

// Kubernetes supports 110 pods per node by default and clouds go to 250; room for many times that, and for several addresses each.
const PODS_ROOM: usize = 4096;
const ADDRESSES_ROOM: usize = 16384;
// Three ports, two generations, MAX_SLOTS workers: 96 per pod at most, 12 with two workers.
const LISTENERS_ROOM: usize = 65536;
const SLOTS_ROOM: usize = 32768;
// Connections older than their pod's enrolment, over the node.
const OLD_ROOM: usize = 262_144;
const PROXIES_ROOM: usize = 64;
// One on a node; nodes that share a kernel (test clusters) share nothing else.
const KUBELETS_ROOM: usize = 16;
// Connections that a kubelet has open: some probes a second for each of the pods, each for a second at most.
const PROBES_ROOM: usize = 8192;
// Those of the last minute; the least recently used go first.
const ENDED_ROOM: usize = 16384;
// Few pods have several interfaces, with a handful of routes each.
const SECONDARY_ROOM: usize = 4096;
const ROUTES_ROOM: usize = 16384;

#[btf_map]
pub(crate) static META: Array<Meta, 1> = Array::new();
#[btf_map]
pub(crate) static PROXIES: HashMap<u64, u32, PROXIES_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static PODS: HashMap<u64, PodValue, PODS_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static OWN: HashMap<AddressKey, u32, ADDRESSES_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, LISTENERS_ROOM> = SockHash::new();
#[btf_map]
pub(crate) static SLOTS: HashMap<SlotsKey, Slots, SLOTS_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static OLD_SOCKETS: HashMap<u64, OldSocket, OLD_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<u64, Counters, PODS_ROOM, LAZY> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static TAGS: SkStorage<ProxyTag> = SkStorage::new();

#[btf_map]
pub(crate) static KUBELETS: HashMap<u64, Kubelet, KUBELETS_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static PROBERS: SkStorage<u32> = SkStorage::new();
#[btf_map]
pub(crate) static PROBES: LruHashMap<ProbeKey, ProbeValue, PROBES_ROOM> = LruHashMap::new();
#[btf_map]
pub(crate) static ENDED: LruHashMap<ProbeKey, u64, ENDED_ROOM> = LruHashMap::new();
#[btf_map]
pub(crate) static PRIMARY: HashMap<u64, u32, PODS_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static SECONDARY: HashMap<LinkKey, u32, SECONDARY_ROOM, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static ROUTES: LpmTrie<AddressKey, u32, ROUTES_ROOM> = LpmTrie::new();
#[btf_map]
pub(crate) static WANTED: SkStorage<Destination> = SkStorage::new();

/// Namespace cookie of the pod that a per-pod program instance serves. sk_lookup and tc have no helper that tells the namespace
/// (tc got one in 6.15), so each pod gets an instance with its cookie patched in.
#[unsafe(no_mangle)]
pub(crate) static POD_COOKIE: Global<u64> = Global::new(redirect_abi::programs::COOKIE_PLACEHOLDER);
