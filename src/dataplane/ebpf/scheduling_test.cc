// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/scheduling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>

namespace fairlead::dataplane::ebpf {
namespace {

/// Servers by letters, as in the reference: A is number 1.
class World {
 public:
  explicit World(bpf::fl_scheduler scheduler) : scheduler_(scheduler) {}

  World& add(char name, std::uint32_t weight = 1) {
    walk_.insert(walk_.begin(), member(name, weight));
    return publish();
  }
  World& erase(char name) {
    std::erase_if(walk_, [&](const Member& m) { return m.number == number(name); });
    return publish();
  }
  World& edit(const std::map<char, std::uint32_t>& weights) {
    for (Member& m : walk_) {
      if (const auto at = weights.find(letter(m.number)); at != weights.end()) {
        m.weight = at->second;
        m.last_weight = m.weight == 0 ? m.last_weight : m.weight;
      }
    }
    return publish();
  }
  World& edit(char name, std::uint32_t weight) { return edit({{name, weight}}); }
  World& become(bpf::fl_scheduler scheduler) {
    const Former former{walk_, {}, 0};
    scheduler_ = scheduler;
    block_ = build_block(scheduler_, walk_, &former);
    cursor_ = block_.cursor;
    return *this;
  }
  /// As the programs do it (bpf/schedule.h, next_turn).
  std::string picks(int count) {
    std::string out;
    const auto& slots = block_.slots;
    for (; count > 0 && !slots.empty(); --count) {
      const std::uint32_t loop = scheduler_ == bpf::FL_WRR ? block_.header.rs : 0;
      const auto size = static_cast<std::uint32_t>(slots.size());
      const std::uint32_t at = cursor_++;
      out += letter(slots[at < size ? at : loop + (at - loop) % (size - loop)].rs);
    }
    return out;
  }
  [[nodiscard]] const Block& block() const { return block_; }
  static char letter(std::uint32_t number) { return static_cast<char>('A' + number - 1); }

 private:
  static std::uint32_t number(char name) { return static_cast<std::uint32_t>(name - 'A') + 1; }
  static Member member(char name, std::uint32_t weight) {
    const auto address = net::IpAddress::parse("10.1.0." + std::to_string(10 + number(name)));
    return {number(name), {*address, net::Port{80}}, weight, weight};
  }
  World& publish() {
    const Former former{former_walk_, block_, cursor_};
    Block next = build_block(scheduler_, walk_, former_walk_.empty() ? nullptr : &former);
    if (!(next == block_)) {
      cursor_ = next.cursor;
      block_ = std::move(next);
    }
    former_walk_ = walk_;
    return *this;
  }

  bpf::fl_scheduler scheduler_;
  std::vector<Member> walk_, former_walk_;
  Block block_;
  std::uint32_t cursor_ = 0;
};

// Expected sequences are those seen on a 6.1 kernel: ipvs-engine.md 2.2 and 2.3.

TEST(RoundRobin, WeightsOnlyShutOut) {
  EXPECT_EQ(World(bpf::FL_RR).add('A', 5).add('B').add('C').picks(7), "CBACBAC");
  EXPECT_EQ(World(bpf::FL_RR).add('A').add('B', 0).add('C').picks(4), "CACA");
}

TEST(RoundRobin, GoesOnWhereItWas) {
  World added(bpf::FL_RR);
  added.add('A').add('B').add('C');
  EXPECT_EQ(added.picks(4), "CBAC");
  EXPECT_EQ(added.add('D').picks(7), "BADCBAD");

  World at_pointer(bpf::FL_RR);
  at_pointer.add('A').add('B').add('C');
  EXPECT_EQ(at_pointer.picks(4), "CBAC");
  EXPECT_EQ(at_pointer.erase('C').picks(4), "BABA");

  World before(bpf::FL_RR);
  before.add('A').add('B').add('C');
  EXPECT_EQ(before.picks(2), "CB");
  EXPECT_EQ(before.erase('B').picks(4), "ACAC");

  World again(bpf::FL_RR);
  again.add('A').add('B').add('C');
  EXPECT_EQ(again.picks(3), "CBA");
  EXPECT_EQ(again.erase('A').add('A').picks(6), "ACBACB");
}

TEST(RoundRobin, NobodyLeftAndBack) {
  World world(bpf::FL_RR);
  world.add('A');
  EXPECT_EQ(world.picks(2), "AA");
  EXPECT_EQ(world.edit('A', 0).picks(1), "");
  EXPECT_EQ(world.edit('A', 1).picks(2), "AA");
}

struct WrrCase {
  std::string weights;  // "A4 B3 C2"
  std::string picks;
};
class WeightedRoundRobin : public testing::TestWithParam<WrrCase> {};

TEST_P(WeightedRoundRobin, IsTheKernels) {
  World world(bpf::FL_WRR);
  for (std::size_t at = 0; at < GetParam().weights.size();) {
    const std::size_t end = std::min(GetParam().weights.find(' ', at), GetParam().weights.size());
    world.add(
        GetParam().weights[at],
        static_cast<std::uint32_t>(std::stoul(GetParam().weights.substr(at + 1, end - at - 1))));
    at = end + 1;
  }
  EXPECT_EQ(world.picks(static_cast<int>(GetParam().picks.size())), GetParam().picks);
}
INSTANTIATE_TEST_SUITE_P(Reference, WeightedRoundRobin,
                         testing::Values(WrrCase{"A4 B3 C2", "CBAABACBACBAABACBA"},
                                         WrrCase{"A5 B1 C1", "CBAAAAACBAAAAA"},
                                         WrrCase{"A10 B20 C30", "CBACCBCBACCBCBACCB"},
                                         WrrCase{"A6 B4", "BAABABAABA"},
                                         WrrCase{"A3 B2 C0", "BAABABAABA"},
                                         WrrCase{"A1 B2 C4 D8", "DCBADDDDDCDCDCB"},
                                         WrrCase{"A0 B0", ""}));

TEST(WeightedRoundRobinChange, Edit) {
  World world(bpf::FL_WRR);
  world.add('A', 4).add('B', 3).add('C', 2);
  EXPECT_EQ(world.picks(4), "CBAA");
  EXPECT_EQ(world.edit('A', 1).picks(11), "BCBCBABCBCB");
}

TEST(WeightedRoundRobinChange, Add) {
  World world(bpf::FL_WRR);
  world.add('A', 4).add('B', 3).add('C', 2);
  EXPECT_EQ(world.picks(3), "CBA");
  EXPECT_EQ(world.add('D', 4).picks(23), "DCBADADBADCBADCBADADBAD");
}

// The kernel is told of each in turn, by address; the order shows in the level.
TEST(WeightedRoundRobinChange, EditsAtOnceAreEditsInTurn) {
  World at_once(bpf::FL_WRR);
  World in_turn(bpf::FL_WRR);
  for (World* world : {&at_once, &in_turn}) {
    world->add('A', 1).add('B', 1).add('C', 4).edit('C', 3).edit('C', 4);
    world->edit('A', 4).edit('A', 1);
    EXPECT_EQ(world->picks(4), "CBAC");
  }
  in_turn.edit('A', 2).edit('B', 2).edit('C', 5);
  EXPECT_EQ(at_once.edit({{'A', 2}, {'B', 2}, {'C', 5}}).picks(12), in_turn.picks(12));
}

// Seen on a 6.1 kernel: no first pass that serves everyone, since the set is complete.
TEST(WeightedRoundRobinChange, TakesOverASet) {
  World world(bpf::FL_RR);
  world.add('A', 3).add('B', 1).add('C', 1).add('D', 3);
  EXPECT_EQ(world.picks(2), "DC");
  EXPECT_EQ(world.become(bpf::FL_WRR).picks(12), "DADADCBADADA");
}

TEST(RoundRobin, TakesOverASet) {
  World world(bpf::FL_WRR);
  world.add('A').add('B').add('C');
  EXPECT_EQ(world.picks(2), "CB");
  EXPECT_EQ(world.become(bpf::FL_RR).picks(4), "CBAC");
}

TEST(WeightedRoundRobinChange, HeavySetsAreScaled) {
  World world(bpf::FL_WRR);
  world.add('A', 60'001).add('B', 20'000);
  EXPECT_LE(world.block().slots.size(), kMaxSequence);
  const std::string picks = world.picks(8000);
  EXPECT_NEAR(static_cast<double>(std::ranges::count(picks, 'A')), 6000,
              80);  // the first pass evens out slowly
}

TEST(Hashes, VectorsOfTheReference) {
  EXPECT_EQ(maglev_hash(0, false), 0x1d5a77c2U);
  EXPECT_EQ(maglev_hash(1, false), 0x16ec66b2U);
  EXPECT_EQ(maglev_hash(0x0a000002, false), 0x41cfde13U);
  EXPECT_EQ(maglev_hash(0, true), 0xf882433fU);
  EXPECT_EQ(maglev_hash(1, true), 0x8210aad1U);
}

std::map<char, int> shares(const Block& block) {
  std::map<char, int> out;
  for (const bpf::fl_slot& slot : block.slots) {
    ++out[World::letter(slot.rs)];
  }
  return out;
}

TEST(Maglev, SharesOfTheReference) {
  using testing::UnorderedElementsAre;
  const auto sizes = [](const Block& block) {
    std::vector<int> out;
    for (const auto& [name, count] : shares(block)) {
      out.push_back(count);
    }
    return out;
  };
  EXPECT_THAT(sizes(World(bpf::FL_MH).add('A').add('B').add('C').block()),
              UnorderedElementsAre(1365, 1364, 1364));
  EXPECT_THAT(sizes(World(bpf::FL_MH).add('A', 3).add('B', 2).add('C', 1).block()),
              UnorderedElementsAre(2046, 1364, 683));
}

TEST(Maglev, WeightZeroMovesNobodyElse) {
  World world(bpf::FL_MH);
  world.add('A').add('B').add('C');
  const Block before = world.block();
  world.edit('B', 0);
  for (std::size_t i = 0; i < before.slots.size(); ++i) {
    EXPECT_EQ(before.slots[i].rs, world.block().slots[i].rs);
    EXPECT_EQ(world.block().slots[i].weight, before.slots[i].rs == 2 ? 0U : 1U);
  }
}

TEST(SourceHash, BucketsAreDealtByWeight) {
  World world(bpf::FL_SH);
  world.add('A', 2).add('B', 0).add('C', 1);
  std::string first;
  for (int i = 0; i < 8; ++i) {
    first += World::letter(world.block().slots[static_cast<std::size_t>(i)].rs);
  }
  EXPECT_EQ(first, "CBAACBAA");
  EXPECT_EQ(world.block().slots.size(), 256U);
  EXPECT_EQ(world.block().slots[1].weight, 0U);
}

TEST(DestinationHash, WeightsDoNotCount) {
  World world(bpf::FL_DH);
  world.add('A', 9).add('B');
  EXPECT_EQ(shares(world.block()), (std::map<char, int>{{'A', 128}, {'B', 128}}));
}

TEST(Scan, KeepsTheWalkAndLeavesOutTheWeightless) {
  World world(bpf::FL_WLC);
  world.add('A', 3).add('B', 0).add('C', 1);
  ASSERT_EQ(world.block().slots.size(), 2U);
  EXPECT_EQ(World::letter(world.block().slots[0].rs), 'C');
  EXPECT_EQ(world.block().slots[1].weight, 3U);
}

TEST(Names, GoThereAndBack) {
  for (const char* name : {"rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh"}) {
    EXPECT_EQ(text(parse_scheduler(name).value()), name);
  }
  EXPECT_FALSE(parse_scheduler("lblc"));
}

}  // namespace
}  // namespace fairlead::dataplane::ebpf
