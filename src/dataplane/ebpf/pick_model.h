// SPDX-License-Identifier: Apache-2.0
// What the programs do with a block (bpf/schedule.h), as plain code for tests.
#pragma once

#include <cstdint>
#include <map>

#include "dataplane/ebpf/scheduling.h"

namespace fairlead::dataplane::ebpf {

struct Load {
  std::uint32_t active = 0, inactive = 0;
  bool overloaded = false;
};

struct Client {
  std::uint32_t address = 0, port = 0, target = 0;  // folded; port 0: does not count
};

struct PickModel {
  bpf::fl_scheduler scheduler = bpf::FL_RR;
  bool fallback = false;
  std::map<std::uint32_t, Load> loads;  // by number

  /// 0: none.
  std::uint32_t pick(const Block& block, std::uint32_t& cursor, const Client& client) {
    const auto count = static_cast<std::uint32_t>(block.slots.size());
    switch (scheduler) {
      case bpf::FL_RR:
      case bpf::FL_WRR: {
        const std::uint32_t loop = scheduler == bpf::FL_WRR ? block.header.rs : 0;
        for (int skips = 0; skips < 64 && loop < count; ++skips) {
          const std::uint32_t at = cursor++;
          const auto& slot = block.slots[at < count ? at : loop + (at - loop) % (count - loop)];
          if (!loads[slot.rs].overloaded) {
            return slot.rs;
          }
        }
        return 0;
      }
      case bpf::FL_SH:
      case bpf::FL_DH:
      case bpf::FL_MH: {
        const std::uint32_t size = scheduler == bpf::FL_MH ? FL_MH_SIZE : FL_SH_SIZE;
        if (count < size) {
          return 0;
        }
        const std::uint32_t first = bucket(client, 0);
        const std::uint32_t tries = fallback && scheduler != bpf::FL_DH ? size + 1 : 1;
        for (std::uint32_t i = 0; i < tries; ++i) {
          const auto& slot = block.slots[i == 0 ? first : bucket(client, (i - 1 + first) % size)];
          if (slot.weight > 0 && !loads[slot.rs].overloaded) {
            return slot.rs;
          }
        }
        return 0;
      }
      default:
        return least(block);
    }
  }

 private:
  [[nodiscard]] std::uint32_t bucket(const Client& client, std::uint32_t offset) const {
    switch (scheduler) {
      case bpf::FL_SH:
        return (offset + hash32(client.port + client.address)) % FL_SH_SIZE;
      case bpf::FL_DH:
        return hash32(client.target) % FL_SH_SIZE;
      default:
        return maglev_hash(offset + client.port + client.address, false) % FL_MH_SIZE;
    }
  }
  std::uint32_t least(const Block& block) {
    std::uint32_t chosen = 0;
    std::uint64_t best = 0;
    std::uint64_t best_weight = 0;
    for (const bpf::fl_slot& slot : block.slots) {
      const Load& load = loads[slot.rs];
      if (slot.weight == 0 || load.overloaded) {
        continue;
      }
      std::uint64_t cost = 0;
      std::uint64_t weight = slot.weight;
      switch (scheduler) {
        case bpf::FL_FO:
        case bpf::FL_OVF:
          if (slot.weight > best_weight &&
              (scheduler == bpf::FL_FO || load.active <= slot.weight)) {
            chosen = slot.rs;
            best_weight = slot.weight;
          }
          continue;
        case bpf::FL_NQ:
          if (load.active == 0) {
            return slot.rs;
          }
          [[fallthrough]];
        case bpf::FL_SED:
          cost = std::uint64_t{load.active} + 1;
          break;
        default:
          cost = std::uint64_t{load.active} * 256 + load.inactive;
          weight = scheduler == bpf::FL_LC ? 1 : weight;
          break;
      }
      if (chosen == 0 || best * weight > cost * best_weight) {
        chosen = slot.rs;
        best = cost;
        best_weight = weight;
      }
    }
    return chosen;
  }
};

}  // namespace fairlead::dataplane::ebpf
