// SPDX-License-Identifier: Apache-2.0
// Maps of another size or layout, taken over on the kernel.
#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <map>

#include "base/text.h"
#include "bpf/kernel_rig.h"
#include "bpf/layout.h"
#include "bpf/migration.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// From kSizes to twice as many connections, so that `flows` moves and all else is shared.
class BpfMigration : public BpfKernel {
 protected:
  static Sizes larger() {
    Sizes sizes = kSizes;
    sizes.connections *= 2;
    return sizes;
  }
  static void put(const UniqueFd& map, std::uint32_t i, std::uint32_t packets,
                  std::uint32_t seen = 0) {
    const fl_tuple key = tuple_of(i);
    fl_flow flow{};
    flow.packets = packets;
    flow.seen = seen;
    FAIRLEAD_CHECK(bpf_map_update_elem(map.get(), &key, &flow, BPF_ANY) == 0);
  }
  static void erase(const UniqueFd& map, std::uint32_t i) {
    const fl_tuple key = tuple_of(i);
    FAIRLEAD_CHECK(bpf_map_delete_elem(map.get(), &key) == 0);
  }
  /// `packets` of each flow.
  static std::map<std::uint32_t, std::uint32_t> held(Tables& maps) {
    std::map<std::uint32_t, std::uint32_t> out;
    Cursor cursor;
    std::vector<FlowEntry> entries;
    while (!cursor.at_end) {
      FAIRLEAD_CHECK(maps.read_flows(cursor, 4096, entries).has_value());
    }
    for (const FlowEntry& entry : entries) {
      out[entry.key.saddr.words[3]] = entry.value.packets;
    }
    return out;
  }
  [[nodiscard]] std::map<std::uint32_t, std::uint32_t> held() const { return held(*tables()); }
  [[nodiscard]] UniqueFd flows(MapSet set) const {
    return std::move(*open_map(pins_, "flows", set));
  }
  /// The old side, with flows 1 to `count` that carried 10 packets.
  void prepare(std::uint32_t count) const {
    const Object object = load();
    tables()->config().layout = FL_LAYOUT;
    const UniqueFd map = flows(MapSet::kServing);
    for (std::uint32_t i = 1; i <= count; ++i) {
      put(map, i, 10);
    }
  }
  void expect_settled() const {
    const std::string scheme = std::filesystem::path(map_directory(pins_)).parent_path();
    EXPECT_FALSE(std::filesystem::exists(map_directory(pins_, MapSet::kNext)));
    EXPECT_THAT(files_below(scheme + "/old"), IsEmpty());
    EXPECT_THAT(files_below(scheme + "/building"), IsEmpty());
    EXPECT_EQ(tables()->flow_capacity(), larger().connections * 2);
  }
};

TEST_F(BpfMigration, WhatOnlyTheOldSideChangedFollows) {
  prepare(7);
  Object object = load(larger());
  ASSERT_TRUE(object.is_taking_over());
  const UniqueFd old = flows(MapSet::kServing);
  const UniqueFd fresh = flows(MapSet::kNext);
  EXPECT_THAT(held(**open_tables(pins_, &object)), SizeIs(7));
  put(old, 1, 11);  // caught up with
  erase(old, 2);
  put(old, 8, 1);
  Status status = object.catch_up();
  ASSERT_TRUE(status) << status.error().text();
  put(old, 3, 12);  // by programs that are not replaced yet
  put(old, 9, 1);
  erase(old, 4);
  put(old, 5, 12);
  put(fresh, 5, 13);  // by both
  put(fresh, 6, 11);  // by the new side alone
  erase(fresh, 7);
  put(fresh, 10, 1);
  status = object.settle();
  ASSERT_TRUE(status) << status.error().text();
  const std::map<std::uint32_t, std::uint32_t> expected = {{1, 11}, {3, 12}, {5, 13}, {6, 11},
                                                           {8, 1},  {9, 1},  {10, 1}};
  EXPECT_EQ(held(), expected);
  EXPECT_FALSE(object.is_taking_over());
  expect_settled();
  EXPECT_FALSE(load(larger()).is_taking_over());
}

TEST_F(BpfMigration, ManyEntriesGoInBatches) {
  prepare(16'000);  // as many as the old map has room for, nearly
  Object object = load(larger());
  ASSERT_TRUE(object.catch_up() && object.settle());
  const auto flows = held();
  EXPECT_THAT(flows, SizeIs(16'000));
  EXPECT_TRUE(std::ranges::all_of(flows, [](const auto& flow) { return flow.second == 10; }));
}

TEST_F(BpfMigration, WhatDoesNotFitIsNamedAndLeavesTheOldMaps) {
  prepare(2000);
  Sizes smaller = kSizes;
  smaller.connections = 500;
  const Result<Object> object = Object::load(pins_, smaller);
  ASSERT_FALSE(object);
  EXPECT_THAT(object.error().text(),
              AllOf(HasSubstr("map flows"), HasSubstr("1000 entries"),
                    HasSubstr("--ebpf-max-connections"), HasSubstr("fairlead cleanup")));
  EXPECT_THAT(held(), SizeIs(2000));
  EXPECT_FALSE(load().is_taking_over());
}

TEST_F(BpfMigration, ArraysDoNotShrink) {
  prepare(1);
  tables()->rs()[200].weight = 7;
  Sizes sizes = kSizes;
  sizes.real_servers = 128;
  EXPECT_FALSE(load(sizes).is_taking_over());
  sizes.real_servers = 512;
  Object object = load(sizes);
  ASSERT_TRUE(object.is_taking_over());
  ASSERT_TRUE(object.catch_up() && object.settle());
  EXPECT_THAT(tables()->rs(), SizeIs(512));
  EXPECT_EQ(tables()->rs()[200].weight, 7U);
  EXPECT_EQ(held().at(1), 10U) << "a map that stays as it is is the same map";
}

TEST_F(BpfMigration, CountersGetTheDifference) {
  prepare(0);
  const auto old = tables();
  old->rs_counts()[3].active = 5;
  old->rs_counts()[3].connections = 100;
  Sizes sizes = kSizes;
  sizes.real_servers *= 2;
  Object object = load(sizes);
  old->rs_counts()[3].active = 6;
  ASSERT_TRUE(object.catch_up());
  const auto fresh = std::move(*open_tables(pins_, &object));
  EXPECT_EQ(fresh->rs_counts()[3].active, 6U);
  fresh->rs_counts()[3].active += 10;  // both count
  old->rs_counts()[3].active -= 2;
  old->rs_counts()[3].connections += 1;
  ASSERT_TRUE(object.settle());
  EXPECT_EQ(fresh->rs_counts()[3].active, 14U);
  EXPECT_EQ(fresh->rs_counts()[3].connections, 101U);
}

TEST_F(BpfMigration, KilledBeforeProgramsAreReplacedItBeginsAgain) {
  prepare(3);
  {
    const Object killed = load(larger());
    ASSERT_TRUE(killed.is_taking_over());
  }
  const UniqueFd old = flows(MapSet::kServing);
  put(old, 1, 11);
  erase(old, 2);
  // And one that was killed earlier.
  const std::string building =
      std::filesystem::path(map_directory(pins_)).parent_path().string() + "/building";
  ASSERT_EQ(::mkdir(building.c_str(), 0755), 0);
  ASSERT_EQ(bpf_obj_pin(old.get(), (building + "/flows").c_str()), 0);
  Object object = load(larger());
  ASSERT_TRUE(object.catch_up() && object.settle());
  EXPECT_EQ(held(), (std::map<std::uint32_t, std::uint32_t>{{1, 11}, {3, 10}}));
  expect_settled();
}

TEST_F(BpfMigration, KilledWhileProgramsAreReplacedItGoesOn) {
  prepare(4);
  const std::uint32_t device = add_veth("fl0", "fl1");
  {
    Object killed = load(larger());
    ASSERT_TRUE(killed.catch_up());
    ASSERT_TRUE(attach_device(pins_, killed, best_hook(), device, true));
  }
  const UniqueFd old = flows(MapSet::kServing);
  const UniqueFd fresh = flows(MapSet::kNext);
  put(old, 1, 11, 100);  // whose last packet is later decides
  put(fresh, 1, 12, 99);
  put(old, 2, 11, 100);
  put(fresh, 2, 12, 101);
  put(old, 5, 1, 100);
  put(fresh, 6, 1, 100);
  Object object = load(larger());
  ASSERT_TRUE(object.is_taking_over());
  ASSERT_TRUE(object.catch_up() && object.settle());
  EXPECT_EQ(held(), (std::map<std::uint32_t, std::uint32_t>{
                        {1, 11}, {2, 12}, {3, 10}, {4, 10}, {5, 1}, {6, 1}}));
  expect_settled();
}

TEST_F(BpfMigration, ThirdPartyToAMigrationThatWasCutShort) {
  prepare(2);
  const std::uint32_t device = add_veth("fl0", "fl1");
  {
    Sizes between = kSizes;
    between.connections += 1000;
    const Object killed = load(between);
    ASSERT_TRUE(attach_device(pins_, killed, best_hook(), device, true));
  }
  put(flows(MapSet::kServing), 3, 1);
  put(flows(MapSet::kNext), 4, 1);
  Object object = load(larger());
  ASSERT_TRUE(object.catch_up() && object.settle());
  EXPECT_EQ(held(), (std::map<std::uint32_t, std::uint32_t>{{1, 10}, {2, 10}, {3, 1}, {4, 1}}));
  expect_settled();
}

TEST_F(BpfMigration, KilledBetweenTheTwoRenames) {
  prepare(2);
  {
    Object killed = load(larger());
    ASSERT_TRUE(killed.catch_up());
    put(flows(MapSet::kNext), 3, 1);
  }
  const std::string maps = map_directory(pins_);
  std::filesystem::rename(maps, std::filesystem::path(maps).parent_path() / "old");
  ASSERT_TRUE(prepare_directory(pins_));
  EXPECT_FALSE(load(larger()).is_taking_over());
  EXPECT_THAT(held(), SizeIs(3));
  expect_settled();
}

TEST_F(BpfMigration, CleanUpTakesItAllInAnyState) {
  prepare(2);
  const std::uint32_t device = add_veth("fl0", "fl1");
  const Object object = load(larger());
  ASSERT_TRUE(attach_device(pins_, object, best_hook(), device, true));
  const std::string scheme = std::filesystem::path(map_directory(pins_)).parent_path();
  for (const char* const left : {"/building", "/old"}) {
    ASSERT_EQ(::mkdir((scheme + left).c_str(), 0755), 0);
    ASSERT_EQ(bpf_obj_pin(flows(MapSet::kNext).get(), (scheme + left + "/flows").c_str()), 0);
  }
  EXPECT_TRUE(remove_all(pins_));  // TearDown looks for what is left
}

/// A number of a pinned map's key or value, by its path in the struct.
using Numbers = std::map<std::string, std::uint64_t>;

/// Bytes with these numbers, of the layout that the kernel knows.
std::vector<std::byte> bytes_of(const UniqueFd& map, bool is_key, const Numbers& numbers) {
  bpf_map_info info{};
  std::uint32_t size = sizeof(info);
  FAIRLEAD_CHECK(bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0);
  const Btf types = own(btf__load_from_kernel_by_id(info.btf_id));
  const Layout layout = *Layout::of(*types, is_key ? info.btf_key_type_id : info.btf_value_type_id);
  std::vector<std::byte> bytes(layout.size);
  for (const auto& [path, number] : numbers) {
    const auto field = std::ranges::find(layout.fields, path, &Field::path);
    FAIRLEAD_CHECK(field != layout.fields.end());
    write_number(*field, number, bytes);
  }
  return bytes;
}

TEST_F(BpfMigration, AnotherLayoutMovesByName) {
  bpf_object* const other = bpf_object__open_file(FAIRLEAD_OTHER_LAYOUT_OBJECT, nullptr);
  ASSERT_NE(other, nullptr);
  for (const char* const name : {"flows", "rs", "rs_counts"}) {
    bpf_map__set_max_entries(bpf_object__find_map_by_name(other, name), 256);
  }
  ASSERT_EQ(bpf_object__load(other), 0);
  const auto fill = [&](const std::string& name, const Numbers& key, const Numbers& value) {
    const std::string path = map_directory(pins_) + "/" + name;
    ASSERT_EQ(bpf_map__pin(bpf_object__find_map_by_name(other, name.c_str()), path.c_str()), 0);
    const UniqueFd map(bpf_obj_get(path.c_str()));
    ASSERT_EQ(bpf_map_update_elem(map.get(), bytes_of(map, true, key).data(),
                                  bytes_of(map, false, value).data(), BPF_ANY),
              0);
  };
  fill("config", {{"", 0}}, {{"layout", FL_LAYOUT + 1000}, {"port_seed", 4711}, {"added", 1}});
  fill("vs", {{"", 1}}, {{"persistence", 600}, {"class_flags[2]", 1}});
  fill("rs", {{"", 7}}, {{"addr.words[3]", 1}, {"generation", 3}, {"added", ~0ULL}});
  fill("rs_counts", {{"", 7}}, {{"active", 1}, {"inactive", 2}});
  fill("flows", {{"saddr.words[3]", 5}, {"protocol", 6}},
       {{"rs", 7}, {"state", 1}, {"packets", 99}, {"bytes", 1'000'000'000'000}});
  fill("clients", {{"vs", 4}, {"addr.words[0]", 9}}, {{"rs", 7}, {"generation", 3}});
  fill("slots", {{"", 2}}, {{"rs", 7}, {"weight", 1}});
  bpf_object__close(other);

  const auto refused = open_tables(pins_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().text(), HasSubstr("of another layout"));

  Object object = load();
  ASSERT_TRUE(object.is_taking_over());
  ASSERT_TRUE(object.catch_up() && object.settle());
  const auto maps = tables();
  EXPECT_EQ(maps->config().layout, static_cast<std::uint32_t>(FL_LAYOUT));
  EXPECT_EQ(maps->config().port_seed, 4711U);
  EXPECT_EQ(maps->vs()[1].persistence, 600U);
  EXPECT_EQ(maps->vs()[1].class_flags[2], 1U);
  EXPECT_EQ(maps->rs()[7].addr.words[3], 1U);
  EXPECT_EQ(maps->rs()[7].generation, 3U);
  EXPECT_EQ(maps->rs_counts()[7].active, 1U);
  EXPECT_EQ(maps->rs_counts()[7].inactive, 2U);
  EXPECT_EQ(maps->slots()[2].rs, 7U);
  fl_tuple key = tuple_of(5);
  key.protocol = 6;
  const auto flow = maps->find_flow(key);
  ASSERT_TRUE(flow);
  EXPECT_EQ(flow->rs, 7U);
  EXPECT_EQ(flow->state, 1U);
  EXPECT_EQ(flow->packets, 99U);
  EXPECT_EQ(flow->bytes, 1'000'000'000'000U);
  Cursor cursor;
  std::vector<ClientEntry> clients;
  ASSERT_TRUE(maps->read_clients(cursor, 10, clients));
  ASSERT_THAT(clients, SizeIs(1));
  EXPECT_EQ(clients.front().key.vs, 4U);
  EXPECT_EQ(clients.front().key.addr.words[0], 9U);
  EXPECT_EQ(clients.front().value.rs, 7U);
}

TEST_F(BpfMigration, AValueThatTheNewFieldCannotHold) {
  bpf_object* const other = bpf_object__open_file(FAIRLEAD_OTHER_LAYOUT_OBJECT, nullptr);
  ASSERT_NE(other, nullptr);
  ASSERT_EQ(bpf_object__load(other), 0);
  const std::string path = map_directory(pins_) + "/flows";
  ASSERT_EQ(bpf_map__pin(bpf_object__find_map_by_name(other, "flows"), path.c_str()), 0);
  const UniqueFd map(bpf_obj_get(path.c_str()));
  ASSERT_EQ(bpf_map_update_elem(map.get(), bytes_of(map, true, {}).data(),
                                bytes_of(map, false, {{"packets", 1ULL << 32U}}).data(), BPF_ANY),
            0);
  bpf_object__close(other);
  const Result<Object> object = Object::load(pins_, kSizes);
  ASSERT_FALSE(object);
  EXPECT_THAT(object.error().text(), AllOf(HasSubstr("map flows"), HasSubstr("field packets"),
                                           HasSubstr("fairlead cleanup")));
}

}  // namespace
}  // namespace fairlead::bpf
