// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/scheduling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

namespace fairlead::dataplane::ebpf {
namespace {

using bpf::fl_slot;

constexpr std::array<std::pair<std::string_view, bpf::fl_scheduler>, 11> kNames = {{
    {"rr", bpf::FL_RR},
    {"wrr", bpf::FL_WRR},
    {"lc", bpf::FL_LC},
    {"wlc", bpf::FL_WLC},
    {"sed", bpf::FL_SED},
    {"nq", bpf::FL_NQ},
    {"fo", bpf::FL_FO},
    {"ovf", bpf::FL_OVF},
    {"sh", bpf::FL_SH},
    {"dh", bpf::FL_DH},
    {"mh", bpf::FL_MH},
}};

bool is_usable(const Member& member) { return member.weight > 0; }

const Member* find(std::span<const Member> walk, std::uint32_t number) {
  const auto found = std::ranges::find(walk, number, &Member::number);
  return found == walk.end() ? nullptr : &*found;
}

fl_slot slot_of(const Member& member) { return {member.number, member.weight}; }

// --- rr ------------------------------------------------------------------------------------------

// The kernel keeps a pointer to the last pick. A server that is deleted hands it to the one before
// it in the walk; one that is added at the head does not move it. The one it points to can be
// without weight, and then is in no slot: so the header, which the programs do not read for rr,
// says where the pointer was when the block was made (`weight`, 0: the head of the list) and which
// cursor that was (`rs`).

/// Where the pointer is now; 0: at the head.
std::uint32_t pointer_of(const Former& former) {
  const auto& [header, slots, unused] = former.block;
  return former.cursor == header.rs || slots.empty() ? header.weight
                                                     : slots[(former.cursor - 1) % slots.size()].rs;
}

Block round_robin(std::span<const Member> walk, const Former* former) {
  Block block;
  for (const Member& member : walk) {
    if (is_usable(member)) {
      block.slots.push_back(slot_of(member));
    }
  }
  std::uint32_t pointer = former == nullptr ? 0 : pointer_of(*former);
  if (pointer == 0) {
    return block;
  }
  auto place = std::ranges::find(former->walk, pointer, &Member::number);
  while (find(walk, pointer) == nullptr) {
    if (place == former->walk.end() || place == former->walk.begin()) {
      return block;  // back at the head of the list
    }
    --place;
    pointer = place->number;
  }
  const auto at = std::ranges::find(walk, pointer, &Member::number);
  const auto next = std::find_if(at + 1, walk.end(), is_usable);
  const auto index = static_cast<std::uint32_t>(std::count_if(walk.begin(), next, is_usable));
  block.cursor = block.slots.empty() ? 0 : index % static_cast<std::uint32_t>(block.slots.size());
  block.header = {block.cursor, pointer};
  return block;
}

// --- wrr -----------------------------------------------------------------------------------------

struct Levels {
  std::uint32_t step = 1;     // gcd of the weights
  std::uint32_t highest = 0;  // 0: no server has a weight
};

Levels levels_of(std::span<const Member> walk) {
  Levels levels;
  std::uint32_t most = 0;
  std::uint32_t gcd = 0;
  for (const Member& member : walk) {
    most = std::max(most, member.weight);
    gcd = std::gcd(gcd, member.weight);
  }
  levels.step = std::max(gcd, 1U);
  levels.highest = most == 0 ? 0 : most - (levels.step - 1);
  return levels;
}

/// What the kernel does to the present level after each add, delete and edit.
std::uint32_t adjust(std::uint32_t level, const Levels& levels) {
  if (level > levels.highest || level == 0) {
    return levels.highest;
  }
  return levels.step > 1 ? level / levels.step * levels.step + 1 : level;
}

/// The level after the changes from `before` to `now`, one server at a time and in the order in
/// which the ipvs plane tells them to the kernel: new ones and changed weights by address, then
/// those that are gone.
std::uint32_t level_after(std::vector<Member> before, std::span<const Member> now,
                          std::uint32_t level) {
  std::vector<Member> wanted(now.begin(), now.end());
  std::ranges::sort(wanted, {}, &Member::socket);
  for (const Member& member : wanted) {
    const auto known = std::ranges::find(before, member.number, &Member::number);
    if (known == before.end()) {
      before.insert(before.begin(), member);
    } else if (known->weight != member.weight) {
      known->weight = member.weight;
    } else {
      continue;
    }
    level = adjust(level, levels_of(before));
  }
  std::ranges::sort(before, {}, &Member::socket);
  for (std::size_t i = 0; i < before.size();) {
    if (find(now, before[i].number) != nullptr) {
      ++i;
      continue;
    }
    before.erase(before.begin() + static_cast<std::ptrdiff_t>(i));
    level = adjust(level, levels_of(before));
  }
  return level;
}

std::uint32_t present_level(const Former& former) {
  const auto& [header, slots, unused] = former.block;
  if (former.cursor == 0 || slots.empty()) {
    return header.weight;
  }
  const std::size_t loop = header.rs;
  const std::size_t pick = former.cursor - 1;
  return slots[pick < slots.size() ? pick : loop + (pick - loop) % (slots.size() - loop)].weight;
}

std::vector<Member> scaled(std::span<const Member> walk) {
  std::vector<Member> out(walk.begin(), walk.end());
  const Levels levels = levels_of(walk);
  std::uint64_t picks = 0;
  for (const Member& member : walk) {
    picks += member.weight / levels.step;
  }
  // Half of it for the cycle; what comes before the cycle is shorter than one.
  for (Member& member : out) {
    if (picks > kMaxSequence / 2 && member.weight > 0) {
      member.weight = static_cast<std::uint32_t>(std::max<std::uint64_t>(
          1, std::uint64_t{member.weight} / levels.step * (kMaxSequence / 2) / picks));
    }
  }
  return out;
}

Block weighted_round_robin(std::span<const Member> real_walk, const Former* former) {
  const std::vector<Member> walk = scaled(real_walk);
  Block block;
  const Levels levels = levels_of(walk);
  std::uint32_t level = 0;
  if (former == nullptr) {
    level = level_after({}, walk, 0);
  } else {
    const std::vector<Member> before = scaled(former->walk);
    const std::uint32_t present = present_level(*former);
    // A scheduler that takes over a set starts at the top of it.
    level = level_after(before, walk, present == 0 ? levels_of(before).highest : present);
  }
  block.header.weight = level;
  if (levels.highest == 0) {
    return block;
  }
  // From the head of the list; a state that was met before closes the cycle.
  std::map<std::pair<std::size_t, std::uint32_t>, std::size_t> met;
  std::size_t place = walk.size();  // the head: the next step is to the first
  bool at_head = true;
  while (block.slots.size() < kMaxSequence) {
    const auto [state, is_new] =
        met.emplace(std::pair(at_head ? walk.size() : place, level), block.slots.size());
    if (!is_new) {
      block.header.rs = static_cast<std::uint32_t>(state->second);
      break;
    }
    for (;;) {
      if (at_head) {
        place = 0;
        at_head = false;
      } else if (++place == walk.size()) {
        level = level > levels.step ? level - levels.step : levels.highest;
        place = 0;
      }
      if (walk[place].weight >= level) {
        break;
      }
    }
    block.slots.push_back({walk[place].number, level});
  }
  return block;
}

// --- Others --------------------------------------------------------------------------------------

Block scan(std::span<const Member> walk) {
  Block block;
  for (const Member& member : walk) {
    if (is_usable(member) && block.slots.size() < FL_MAX_SCAN) {
      block.slots.push_back(slot_of(member));
    }
  }
  return block;
}

/// Buckets dealt out in walk order: one each, or as many in a row as the weight says. A server
/// without weight has its bucket all the same.
Block dealt(std::span<const Member> walk, bool by_weight) {
  Block block;
  while (!walk.empty() && block.slots.size() < FL_SH_SIZE) {
    for (const Member& member : walk) {
      const std::uint32_t turns = by_weight ? std::max(1U, member.weight) : 1;
      for (std::uint32_t i = 0; i < turns && block.slots.size() < FL_SH_SIZE; ++i) {
        block.slots.push_back(slot_of(member));
      }
    }
  }
  return block;
}

constexpr int kWeightBits = 6;

Block maglev(std::span<const Member> walk) {
  Block block;
  std::uint32_t gcd = 0;
  std::uint32_t most = 0;
  for (const Member& member : walk) {
    gcd = std::gcd(gcd, member.last_weight);
    most = std::max(most, member.last_weight);
  }
  if (most == 0 || walk.size() > FL_MH_SIZE) {
    return block;
  }
  const int shift = std::max(0, static_cast<int>(std::bit_width(most / gcd)) - kWeightBits);
  struct Seat {
    std::uint32_t next, skip, turns;
  };
  std::vector<Seat> seats;
  seats.reserve(walk.size());
  for (const Member& member : walk) {
    const std::uint32_t word = fold(member.socket.address) + net::number(member.socket.port);
    std::uint32_t turns = (member.last_weight / gcd) >> static_cast<unsigned>(shift);
    if (turns == 0 && member.last_weight != 0) {
      turns = 1;
    }
    seats.push_back({maglev_hash(word, false) % FL_MH_SIZE,
                     maglev_hash(word, true) % (FL_MH_SIZE - 1) + 1, turns});
  }
  block.slots.resize(FL_MH_SIZE);
  for (std::size_t filled = 0; filled < FL_MH_SIZE;) {
    for (std::size_t i = 0; i < walk.size() && filled < FL_MH_SIZE; ++i) {
      Seat& seat = seats[i];
      for (std::uint32_t turn = 0; turn < seat.turns && filled < FL_MH_SIZE; ++turn, ++filled) {
        while (block.slots[seat.next].rs != 0) {
          seat.next = (seat.next + seat.skip) % FL_MH_SIZE;
        }
        block.slots[seat.next] = slot_of(walk[i]);
      }
    }
  }
  return block;
}

}  // namespace

std::optional<bpf::fl_scheduler> parse_scheduler(std::string_view name) {
  for (const auto& [known, scheduler] : kNames) {
    if (known == name) {
      return scheduler;
    }
  }
  return std::nullopt;
}

std::string_view text(bpf::fl_scheduler scheduler) {
  for (const auto& [name, known] : kNames) {
    if (known == scheduler) {
      return name;
    }
  }
  return "?";
}

bool operator==(const Block& a, const Block& b) {
  const auto same = [](const fl_slot& x, const fl_slot& y) {
    return x.rs == y.rs && x.weight == y.weight;
  };
  return same(a.header, b.header) && std::ranges::equal(a.slots, b.slots, same);
}

Block build_block(bpf::fl_scheduler scheduler, std::span<const Member> walk, const Former* former) {
  switch (scheduler) {
    case bpf::FL_RR:
      return round_robin(walk, former);
    case bpf::FL_WRR:
      return weighted_round_robin(walk, former);
    case bpf::FL_LC:
    case bpf::FL_WLC:
    case bpf::FL_SED:
    case bpf::FL_NQ:
    case bpf::FL_FO:
    case bpf::FL_OVF:
      return scan(walk);
    case bpf::FL_SH:
      return dealt(walk, true);
    case bpf::FL_DH:
      return dealt(walk, false);
    case bpf::FL_MH:
      return maglev(walk);
  }
  return {};
}

std::uint32_t fold(const net::IpAddress& address) {
  const auto bytes = address.bytes();
  std::uint32_t folded = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 4) {
    folded ^= std::uint32_t{bytes[i]} << 24U | std::uint32_t{bytes[i + 1]} << 16U |
              std::uint32_t{bytes[i + 2]} << 8U | bytes[i + 3];
  }
  return folded;
}

std::uint32_t hash32(std::uint32_t value) { return (value * 0x61C88647U) >> 24U; }

std::uint32_t maglev_hash(std::uint32_t value, bool second) {
  const std::uint64_t key = second ? 2654446892ULL : 2654435761ULL;
  std::uint64_t v0 = 0x736f6d6570736575ULL ^ key;
  std::uint64_t v1 = 0x646f72616e646f6dULL ^ key;
  std::uint64_t v2 = 0x6c7967656e657261ULL ^ key;
  std::uint64_t v3 = 0x7465646279746573ULL ^ key;
  const auto round = [&] {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  };
  const std::uint64_t block = 4ULL << 56U | value;
  v3 ^= block;
  round();
  v0 ^= block;
  v2 ^= 0xffU;
  round();
  round();
  round();
  return static_cast<std::uint32_t>(v0 ^ v1 ^ v2 ^ v3);
}

}  // namespace fairlead::dataplane::ebpf
