// SPDX-License-Identifier: Apache-2.0
#include "kernel.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

namespace fairlead::shim {
namespace {

constexpr std::size_t kMaxFrame = 65535;
constexpr std::size_t kWindow = 128 * 1024;
constexpr std::size_t kHeadroom = 256;

std::uint8_t* window_below_4_gib() {
  void* const memory = ::mmap(nullptr, kWindow, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  require(memory != MAP_FAILED);
  return static_cast<std::uint8_t*>(memory);
}

/// As the loader does before the constants become read-only.
void set_constant(const volatile void* address, std::uint32_t value) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  void* const first = reinterpret_cast<void*>(at / page * page);
  if (*static_cast<const volatile std::uint32_t*>(address) != value) {
    require(::mprotect(first, page, PROT_READ | PROT_WRITE) == 0);
    std::memcpy(reinterpret_cast<void*>(at), &value, sizeof(value));
    require(::mprotect(first, page, PROT_READ) == 0);
  }
}

}  // namespace

// --- Maps ----------------------------------------------------------------------------------------

Map::Map(const shim_map& described)
    : type_(described.type),
      key_size_(described.key_size),
      value_size_(described.value_size),
      max_entries_(described.max_entries) {}

bool Map::is_array() const {
  return type_ == BPF_MAP_TYPE_ARRAY || type_ == BPF_MAP_TYPE_PERCPU_ARRAY;
}

void Map::set_max_entries(std::uint32_t max) {
  max_entries_ = max;
  clear();
}

void Map::clear() {
  entries_.clear();
  if (is_array()) {
    require(value_size_ % 4 == 0);
    array_.assign((std::size_t{max_entries_} * value_size_ + 7) / 8, 0);
  }
}

Map::Element Map::make(const void* value) const {
  auto element = std::make_unique<std::uint64_t[]>((value_size_ + 7) / 8);
  std::memcpy(element.get(), value, value_size_);
  return element;
}

void* Map::longest_prefix(const void* key) {
  const auto* const asked = static_cast<const std::uint8_t*>(key);
  void* best = nullptr;
  std::uint32_t best_length = 0;
  for (const auto& [bytes, element] : entries_) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    bool matches = best == nullptr || length > best_length;
    for (std::uint32_t bit = 0; matches && bit < length; ++bit) {
      const auto have = static_cast<std::uint8_t>(bytes[4 + bit / 8]);
      matches = ((have ^ asked[4 + bit / 8]) >> (7 - bit % 8) & 1) == 0;
    }
    if (matches) {
      best = element.get();
      best_length = length;
    }
  }
  return best;
}

void* Map::find(const void* key) {
  if (type_ == BPF_MAP_TYPE_LPM_TRIE) {
    return longest_prefix(key);
  }
  if (is_array()) {
    std::uint32_t index = 0;
    std::memcpy(&index, key, sizeof(index));
    auto* const bytes = reinterpret_cast<std::uint8_t*>(array_.data());
    return index < max_entries_ ? bytes + std::size_t{index} * value_size_ : nullptr;
  }
  const auto found = entries_.find(std::string(static_cast<const char*>(key), key_size_));
  return found == entries_.end() ? nullptr : found->second.get();
}

long Map::update(const void* key, const void* value, std::uint64_t flags) {
  if (flags > BPF_EXIST) {
    return -EINVAL;
  }
  if (is_array()) {
    void* const element = find(key);
    if (element == nullptr) {
      return -E2BIG;
    }
    if (flags == BPF_NOEXIST) {
      return -EEXIST;
    }
    std::memcpy(element, value, value_size_);
    return 0;
  }
  std::string bytes(static_cast<const char*>(key), key_size_);
  const auto found = entries_.find(bytes);
  if (found != entries_.end()) {
    if (flags == BPF_NOEXIST) {
      return -EEXIST;
    }
    found->second = make(value);  // a new element, as in the kernel
    return 0;
  }
  if (flags == BPF_EXIST) {
    return -ENOENT;
  }
  if (entries_.size() >= max_entries_) {
    if (type_ != BPF_MAP_TYPE_LRU_HASH) {
      return -E2BIG;
    }
    auto& random = Kernel::instance().random;
    random = random * 1664525U + 1013904223U;
    entries_.erase(
        std::next(entries_.begin(), static_cast<std::ptrdiff_t>((random >> 8U) % entries_.size())));
  }
  entries_.emplace(std::move(bytes), make(value));
  return 0;
}

long Map::erase(const void* key) {
  if (is_array()) {
    return -EINVAL;
  }
  return entries_.erase(std::string(static_cast<const char*>(key), key_size_)) == 1 ? 0 : -ENOENT;
}

// --- The kernel ----------------------------------------------------------------------------------

Kernel& Kernel::instance() {
  static Kernel kernel;
  return kernel;
}

Kernel::Kernel() : window_(window_below_4_gib()), shown_end_(window_ + kHeadroom) {
  ASAN_POISON_MEMORY_REGION(window_, kWindow);
  for (const shim_map* described = shim_maps; described->name != nullptr; ++described) {
    by_address_[described->address] =
        &maps_.emplace(described->name, Map(*described)).first->second;
  }
}

void Kernel::reset(bool fast_path) {
  for (auto& [name, map] : maps_) {
    map.clear();
  }
  now_ns = 0;
  random = 1;
  cookie = 0;
  route = {};
  redirect.reset();
  set_constant(shim_fast_path, fast_path ? 1 : 0);
}

Map& Kernel::map(std::string_view name) {
  const auto found = maps_.find(name);
  require(found != maps_.end());
  return found->second;
}

Map& Kernel::map_at(const void* address) {
  const auto found = by_address_.find(address);
  require(found != by_address_.end());  // add it to shim/programs.c
  return *found->second;
}

int Kernel::run(int (*program)(__sk_buff*), Packet& packet) {
  packet_ = &packet;
  redirect.reset();
  view_ = {};
  view_.ifindex = packet.interface;
  view_.tc_index = packet.tc_index;
  packet.linear = std::max(packet.linear, packet.l3);
  show();
  const int verdict = program(&view_);
  packet.tc_index = static_cast<std::uint16_t>(view_.tc_index);
  packet_ = nullptr;
  return verdict;
}

Packet& Kernel::packet(const __sk_buff* view) {
  require(packet_ != nullptr && view == &view_);
  return *packet_;
}

void Kernel::show() {
  const Packet& p = *packet_;
  require(p.frame.size() <= kMaxFrame);
  // Network headers are aligned, as the kernel's drivers see to.
  std::uint8_t* const data = window_ + kHeadroom + (p.l3 == 0 ? 0 : 16 - p.l3 % 16);
  const std::size_t linear = std::min(p.linear, p.frame.size());
  ASAN_POISON_MEMORY_REGION(window_, static_cast<std::size_t>(shown_end_ - window_));
  shown_end_ = data + linear;
  ASAN_UNPOISON_MEMORY_REGION(data, linear);
  std::copy_n(p.frame.begin(), linear, data);
  view_.data = static_cast<__u32>(reinterpret_cast<std::uintptr_t>(data));
  view_.data_end = static_cast<__u32>(view_.data + linear);
  view_.len = static_cast<__u32>(p.frame.size());
  view_.protocol = htons(p.protocol);
  view_.vlan_present = p.has_vlan_tag ? 1 : 0;
  view_.gso_size = p.gso_size;
}

// --- Helpers -------------------------------------------------------------------------------------

namespace {

Packet& packet_of(const void* skb) {
  return Kernel::instance().packet(static_cast<const __sk_buff*>(skb));
}

bool make_writable(Packet& packet, std::size_t end) {
  if (end > packet.frame.size()) {
    return false;
  }
  packet.linear = std::max(packet.linear, end);
  return true;
}

/// Room in front of what lies at `offset`.
void push(Packet& packet, std::size_t offset, std::size_t size) {
  packet.frame.insert(packet.frame.begin() + static_cast<std::ptrdiff_t>(offset), size, 0);
  if (packet.linear != SIZE_MAX) {
    packet.linear += size;
  }
  if (packet.partial) {
    packet.partial->start += size;
  }
}

std::uint16_t fold(std::uint64_t sum) {
  while (sum >> 16U != 0) {
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return static_cast<std::uint16_t>(sum);
}

/// In the order of memory, as all the kernel's sums.
std::uint64_t sum_of(const void* data, std::size_t size) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < size; i += 2) {
    std::uint16_t word = 0;
    std::memcpy(&word, static_cast<const std::uint8_t*>(data) + i, 2);
    sum += word;
  }
  return sum;
}

std::uint16_t get16(const Packet& packet, std::size_t at) {
  std::uint16_t value = 0;
  std::memcpy(&value, &packet.frame.at(at), sizeof(value));
  return value;
}

void put16(Packet& packet, std::size_t at, std::uint16_t value) {
  std::memcpy(&packet.frame.at(at), &value, sizeof(value));
}

std::uint16_t inverted(std::uint16_t value) { return static_cast<std::uint16_t>(~value); }

/// The change of a sum from one value to the other, 2 or 4 bytes of them.
std::uint64_t change_of(std::uint64_t from, std::uint64_t to, std::uint64_t size) {
  const std::uint64_t mask = size == 2 ? 0xffffU : 0xffffffffU;
  return (~from & mask) + (to & mask);
}

long replace_checksum(__sk_buff* skb, __u32 offset, __u64 from, __u64 to, __u64 flags,
                      bool is_transport) {
  Packet& packet = packet_of(skb);
  const bool is_pseudo = is_transport && (flags & BPF_F_PSEUDO_HDR) != 0;
  const bool is_optional = is_transport && (flags & BPF_F_MARK_MANGLED_0) != 0;
  const std::uint64_t size = flags & BPF_F_HDR_FIELD_MASK;
  if (offset > 0xffff || offset % 2 != 0 || !make_writable(packet, offset + 2)) {
    return -EFAULT;
  }
  if ((size != 0 && size != 2 && size != 4) || (size == 0 && from != 0)) {
    return -EINVAL;
  }
  const std::uint16_t old = get16(packet, offset);
  if (is_optional && old == 0) {
    return 0;
  }
  const std::uint64_t change = size == 0 ? to & 0xffffffffU : change_of(from, to, size);
  std::uint16_t now = old;
  if (!is_transport || !packet.partial) {
    now = inverted(fold(inverted(old) + change));
  } else if (is_pseudo) {
    now = fold(old + change);  // so far only the pseudo header's sum, which is not inverted
  }
  put16(packet, offset, is_optional && now == 0 ? 0xffff : now);
  Kernel::instance().show();
  return 0;
}

}  // namespace
}  // namespace fairlead::shim

using fairlead::shim::Kernel;
using fairlead::shim::Packet;
using fairlead::shim::packet_of;
using fairlead::shim::Redirect;

extern "C" {

void* bpf_map_lookup_elem(void* map, const void* key) {
  return Kernel::instance().map_at(map).find(key);
}
long bpf_map_update_elem(void* map, const void* key, const void* value, __u64 flags) {
  return Kernel::instance().map_at(map).update(key, value, flags);
}
long bpf_map_delete_elem(void* map, const void* key) {
  return Kernel::instance().map_at(map).erase(key);
}

/// There is no other version's program to go on with.
long bpf_tail_call(void* /*context*/, void* /*programs*/, __u32 /*index*/) { return -ENOENT; }

long bpf_loop(__u32 turns, void* step, void* context, __u64 flags) {
  if (flags != 0 || turns > (1U << 23U)) {
    return flags != 0 ? -EINVAL : -E2BIG;
  }
  const auto run = reinterpret_cast<long (*)(__u32, void*)>(step);
  for (__u32 i = 0; i < turns; ++i) {
    if (run(i, context) != 0) {
      return i + 1;
    }
  }
  return turns;
}

__u32 bpf_get_prandom_u32() {
  auto& random = Kernel::instance().random;
  random = random * 1664525U + 1013904223U;
  return random ^ random >> 16U;
}
__u64 bpf_ktime_get_coarse_ns() { return Kernel::instance().now_ns; }

long bpf_skb_load_bytes(const void* skb, __u32 offset, void* to, __u32 size) {
  const Packet& packet = packet_of(skb);
  if (std::size_t{offset} + size > packet.frame.size()) {
    std::memset(to, 0, size);
    return -EFAULT;
  }
  std::memcpy(to, packet.frame.data() + offset, size);
  return 0;
}

long bpf_skb_store_bytes(__sk_buff* skb, __u32 offset, const void* from, __u32 size, __u64 flags) {
  Packet& packet = packet_of(skb);
  if (flags != 0) {
    return -EINVAL;  // none that we use
  }
  if (offset > INT_MAX || !fairlead::shim::make_writable(packet, std::size_t{offset} + size)) {
    return -EFAULT;
  }
  std::memcpy(packet.frame.data() + offset, from, size);
  Kernel::instance().show();
  return 0;
}

long bpf_l3_csum_replace(__sk_buff* skb, __u32 offset, __u64 from, __u64 to, __u64 size) {
  return fairlead::shim::replace_checksum(skb, offset, from, to, size, false);
}
long bpf_l4_csum_replace(__sk_buff* skb, __u32 offset, __u64 from, __u64 to, __u64 flags) {
  return fairlead::shim::replace_checksum(skb, offset, from, to, flags, true);
}

__s64 bpf_csum_diff(const void* from, __u32 from_size, const void* to, __u32 to_size, __u32 seed) {
  if (from_size % 4 != 0 || to_size % 4 != 0 || from_size + to_size > 512) {
    return -EINVAL;
  }
  const std::uint64_t sum =
      seed + fairlead::shim::sum_of(to, to_size) +
      static_cast<std::uint16_t>(~fairlead::shim::fold(fairlead::shim::sum_of(from, from_size)));
  return static_cast<__s64>((sum & 0xffffffffU) + (sum >> 32U));
}

long bpf_skb_change_tail(__sk_buff* skb, __u32 size, __u64 flags) {
  Packet& packet = packet_of(skb);
  const std::size_t least =
      packet.partial ? packet.partial->start + packet.partial->offset + 2 : packet.l3;
  if (flags != 0 || size > fairlead::shim::kMaxFrame || size < least) {
    return -EINVAL;
  }
  packet.frame.resize(size);
  packet.linear = SIZE_MAX;
  packet.gso_size = 0;
  Kernel::instance().show();
  return 0;
}

long bpf_skb_change_head(__sk_buff* skb, __u32 room, __u64 flags) {
  Packet& packet = packet_of(skb);
  if (flags != 0 || packet.frame.size() + room > fairlead::shim::kMaxFrame) {
    return -EINVAL;
  }
  fairlead::shim::push(packet, 0, room);
  packet.l3 += room;
  Kernel::instance().show();
  return 0;
}

long bpf_skb_adjust_room(__sk_buff* skb, __s32 change, __u32 mode, __u64 flags) {
  Packet& packet = packet_of(skb);
  constexpr std::uint64_t kKnown = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
                                   BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE |
                                   BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
  if ((flags & ~kKnown) != 0 || mode != BPF_ADJ_ROOM_MAC || change < 0 || change > 0xfff) {
    return -EINVAL;  // none that we use
  }
  if (packet.protocol != ETH_P_IP && packet.protocol != ETH_P_IPV6) {
    return -ENOTSUP;
  }
  if (packet.frame.size() + static_cast<std::size_t>(change) > fairlead::shim::kMaxFrame) {
    return -ENOTSUP;
  }
  fairlead::shim::push(packet, packet.l3, static_cast<std::size_t>(change));
  if ((flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) != 0) {
    packet.protocol = ETH_P_IP;
  } else if ((flags & BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) != 0) {
    packet.protocol = ETH_P_IPV6;
  }
  if (packet.l3 == 14) {  // the kernel leaves this to eth_header of whoever sends it on
    packet.frame[12] = static_cast<std::uint8_t>(packet.protocol >> 8U);
    packet.frame[13] = static_cast<std::uint8_t>(packet.protocol);
  }
  Kernel::instance().show();
  return 0;
}

/// Between the families: the difference of their headers comes or goes where the header begins.
long bpf_skb_change_proto(__sk_buff* skb, __be16 protocol, __u64 flags) {
  constexpr std::size_t kDifference = 20;
  Packet& packet = packet_of(skb);
  const std::uint16_t to = ntohs(protocol);
  if (flags != 0) {
    return -EINVAL;
  }
  if (packet.protocol == ETH_P_IP && to == ETH_P_IPV6) {
    if (packet.frame.size() + kDifference > fairlead::shim::kMaxFrame) {
      return -ENOMEM;
    }
    fairlead::shim::push(packet, packet.l3, kDifference);
  } else if (packet.protocol == ETH_P_IPV6 && to == ETH_P_IP) {
    if (!fairlead::shim::make_writable(packet, packet.l3 + kDifference)) {
      return -ENOMEM;
    }
    const auto at = packet.frame.begin() + static_cast<std::ptrdiff_t>(packet.l3);
    packet.frame.erase(at, at + kDifference);
    if (packet.linear != SIZE_MAX) {
      packet.linear -= kDifference;
    }
    if (packet.partial) {
      packet.partial->start -= kDifference;
    }
  } else {
    return -ENOTSUP;
  }
  packet.protocol = to;
  Kernel::instance().show();
  return 0;
}

long bpf_skb_vlan_pop(__sk_buff* skb) {
  packet_of(skb).has_vlan_tag = false;
  Kernel::instance().show();
  return 0;
}

__u32 bpf_get_hash_recalc(__sk_buff* skb) {
  return static_cast<__u32>(packet_of(skb).frame.size()) * 0x9e3779b1U;
}

long bpf_fib_lookup(void* context, struct bpf_fib_lookup* route, int size, __u32 flags) {
  static_cast<void>(packet_of(context));
  const auto& answer = Kernel::instance().route;
  if (size != sizeof(*route) || flags != 0) {
    return -EINVAL;
  }
  if (answer.result < 0) {
    return answer.result;
  }
  const std::uint16_t length = route->tot_len;
  if (answer.result != BPF_FIB_LKUP_RET_SUCCESS && answer.result != BPF_FIB_LKUP_RET_NO_NEIGH) {
    return answer.result;
  }
  route->mtu_result = answer.mtu;
  if (length > answer.mtu) {
    return BPF_FIB_LKUP_RET_FRAG_NEEDED;
  }
  route->ifindex = answer.interface;
  if (answer.result == BPF_FIB_LKUP_RET_SUCCESS) {
    std::memset(route->smac, 2, sizeof(route->smac));
    std::memset(route->dmac, 6, sizeof(route->dmac));
  }
  return answer.result;
}

long bpf_redirect(__u32 interface, __u64 flags) {
  if ((flags & ~std::uint64_t{BPF_F_INGRESS}) != 0) {
    return TC_ACT_SHOT;
  }
  Kernel::instance().redirect = Redirect{Redirect::Kind::kOut, interface};
  return TC_ACT_REDIRECT;
}
long bpf_redirect_peer(__u32 interface, __u64 flags) {
  if (flags != 0) {
    return TC_ACT_SHOT;
  }
  Kernel::instance().redirect = Redirect{Redirect::Kind::kPeer, interface};
  return TC_ACT_REDIRECT;
}
long bpf_redirect_neigh(__u32 interface, bpf_redir_neigh* next, int size, __u64 flags) {
  if (flags != 0 || size != sizeof(*next) || (next->nh_family != 2 && next->nh_family != 10)) {
    return TC_ACT_SHOT;
  }
  Kernel::instance().redirect = Redirect{Redirect::Kind::kNeighbour, interface};
  return TC_ACT_REDIRECT;
}

__u64 bpf_get_netns_cookie(void* /*context*/) { return Kernel::instance().cookie >> 8U; }
__u64 bpf_get_socket_cookie(void* /*context*/) { return Kernel::instance().cookie; }
int bpf_set_retval(int /*value*/) { return 0; }
}
