//! The maps. User space pins them by these names.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuHashMap, SkStorage, SockHash};
use aya_ebpf::macros::btf_map;
use redirect_abi::{AddressKey, Counters, ListenerKey, Meta, OldSocket, PodValue, ProxyTag, Slots, SlotsKey};

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

/// Namespace cookie of the pod that a per-pod program instance serves. sk_lookup and tc have no helper that tells the namespace
/// (tc got one in 6.15), so each pod gets an instance with its cookie patched in.
#[unsafe(no_mangle)]
pub(crate) static POD_COOKIE: Global<u64> = Global::new(redirect_abi::programs::COOKIE_PLACEHOLDER);
