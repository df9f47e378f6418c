// SPDX-License-Identifier: Apache-2.0
// The kernel around the programs, as far as they see it: maps, packets, routes, time. Helpers
// answer as the kernel's do, errors and limits included; what they do not say (which entry of an
// LRU map goes, whether a header is at hand) the fuzzer decides. An element of a map is an
// allocation of its own, so that the address sanitizer sees who uses one that was deleted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <linux/bpf.h>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "programs.h"

namespace fairlead::shim {

using Bytes = std::vector<std::uint8_t>;

/// What the fuzzer relies on itself.
inline void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

class Map {
 public:
  explicit Map(const shim_map& described);

  /// Clears it.
  void set_max_entries(std::uint32_t max);
  void clear();

  void* find(const void* key);
  long update(const void* key, const void* value, std::uint64_t flags);
  long erase(const void* key);

  template <typename Value, typename Key>
  Value* at(const Key& key) {
    require(sizeof(Key) == key_size_ && sizeof(Value) == value_size_);
    return static_cast<Value*>(find(&key));
  }
  template <typename Key, typename Value>
  void put(const Key& key, const Value& value) {
    require(sizeof(Key) == key_size_ && sizeof(Value) == value_size_);
    require(update(&key, &value, 0) == 0);
  }
  /// An array's elements.
  template <typename Value>
  std::span<Value> all() {
    require(is_array() && sizeof(Value) == value_size_);
    return {reinterpret_cast<Value*>(array_.data()), max_entries_};
  }
  /// A hash's entries, in the order of the keys' bytes.
  template <typename Key, typename Value, typename Visit>
  void for_each(Visit visit) const {
    require(!is_array());
    for (const auto& [bytes, element] : entries_) {
      Key key;
      std::copy_n(bytes.data(), sizeof(Key), reinterpret_cast<char*>(&key));
      visit(key, *reinterpret_cast<Value*>(element.get()));
    }
  }

 private:
  using Element = std::unique_ptr<std::uint64_t[]>;

  [[nodiscard]] bool is_array() const;
  void* longest_prefix(const void* key);
  Element make(const void* value) const;

  std::uint32_t type_, key_size_, value_size_, max_entries_;
  std::map<std::string, Element> entries_;
  std::vector<std::uint64_t> array_;  // an array's elements; the kernel's begin at 8 bytes, too
};

struct Partial {
  std::size_t start = 0, offset = 0;
};

/// A packet at a hook.
struct Packet {
  Bytes frame;
  std::size_t linear = SIZE_MAX;  // so many bytes are at hand; the rest takes a call
  std::size_t l3 = 14;            // 0: no link layer
  std::uint16_t protocol = 0;     // ETH_P_*, in the CPU's order
  std::uint32_t interface = 1;
  std::uint16_t tc_index = 0;
  bool has_vlan_tag = false;
  std::uint32_t gso_size = 0;
  std::optional<Partial> partial{};  // the device shall finish the transport checksum
};

/// Where a packet was sent.
struct Redirect {
  enum class Kind { kOut, kPeer, kNeighbour } kind = Kind::kOut;
  std::uint32_t interface = 0;
};

struct Route {
  long result = 0;  // BPF_FIB_LKUP_*
  std::uint32_t interface = 1;
  std::uint16_t mtu = 1500;
};

/// One of them: the programs' helpers have no other way to it.
class Kernel {
 public:
  static Kernel& instance();

  /// As after loading: empty maps of the least sizes.
  void reset(bool fast_path);
  Map& map(std::string_view name);
  Map& map_at(const void* address);

  /// Runs a program on the packet, which is then what the program left.
  int run(int (*program)(__sk_buff*), Packet& packet);

  std::uint64_t now_ns = 0;
  std::uint32_t random = 1;
  std::uint64_t cookie = 0;  // of whoever asks
  Route route;               // the answer to every lookup
  std::optional<Redirect> redirect;

  // For the helpers.
  Packet& packet(const __sk_buff* view);
  /// Makes the view follow the packet.
  void show();

 private:
  Kernel();

  std::map<std::string, Map, std::less<>> maps_;
  std::map<const void*, Map*> by_address_;
  std::uint8_t* window_;     // below 4 GiB, for the view holds 32-bit pointers
  std::uint8_t* shown_end_;  // of what is not poisoned
  __sk_buff view_{};
  Packet* packet_ = nullptr;
};

}  // namespace fairlead::shim
