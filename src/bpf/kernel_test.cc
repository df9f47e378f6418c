// SPDX-License-Identifier: Apache-2.0
// Programs, maps and hooks on the kernel. The process leaves the caller's network and mount
// namespaces before anything else: devices, filters and the bpffs are its own, and vanish with it.
// Cgroup programs go on a child cgroup that nobody is in.
#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <map>
#include <net/if.h>
#include <sched.h>
#include <set>
#include <string>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "bpf/attach.h"
#include "bpf/devices.h"
#include "bpf/helpers.h"
#include "bpf/kernel_tables.h"
#include "bpf/layout.h"
#include "bpf/netns_cookie.h"
#include "bpf/object.h"
#include "bpf/options.h"
#include "bpf/probe.h"
#include "bpf/tables.h"
#include "netlink/route.h"

namespace fairlead::bpf {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr Sizes kSizes = {.virtual_servers = 8192,
                          .real_servers = 256,
                          .slots = 4096,
                          .connections = 8192,
                          .half_open = 256,
                          .clients = 1024,
                          .fragments = 64,
                          .sockets = 64,
                          .devices = 64};

ino_t inode(const char* path) {
  struct stat info{};
  FAIRLEAD_CHECK(::stat(path, &info) == 0);
  return info.st_ino;
}

void enter_new_network() {
  const ino_t before = inode("/proc/thread-self/ns/net");
  FAIRLEAD_CHECK(::unshare(CLONE_NEWNET) == 0);
  FAIRLEAD_CHECK(inode("/proc/thread-self/ns/net") != before);
}

std::string run(const std::vector<std::string>& argv) {
  const auto output = run_program(argv, "", 20s);
  EXPECT_TRUE(output) << output.error().text();
  return output.value_or("");
}

std::uint32_t add_veth(const std::string& name, const std::string& peer, std::uint32_t index = 0) {
  std::vector<std::string> argv = {"ip", "link", "add", name};
  if (index != 0) {
    argv.insert(argv.end(), {"index", std::to_string(index)});
  }
  argv.insert(argv.end(), {"type", "veth", "peer", "name", peer});
  run(argv);
  return ::if_nametoindex(name.c_str());
}

std::string filters(const std::string& device, const std::string& side) {
  return run({"tc", "filter", "show", "dev", device, side});
}

/// A filter of someone else's: `return TC_ACT_OK`.
void add_foreign_filter(std::uint32_t interface) {
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  code[1].code = BPF_JMP | BPF_EXIT;
  const UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "foreign", "Dual BSD/GPL",
                                       code.data(), code.size(), nullptr));
  auto hook = options<bpf_tc_hook>();
  hook.ifindex = static_cast<int>(interface);
  hook.attach_point = BPF_TC_INGRESS;
  auto opts = options<bpf_tc_opts>();
  opts.prog_fd = program.get();
  opts.handle = 1;
  opts.priority = 7;
  FAIRLEAD_CHECK(bpf_tc_hook_create(&hook) == 0 && bpf_tc_attach(&hook, &opts) == 0);
}

std::uint32_t link_id(const std::string& path) {
  const UniqueFd link(bpf_obj_get(path.c_str()));
  bpf_link_info info{};
  std::uint32_t size = sizeof(info);
  return link && bpf_obj_get_info_by_fd(link.get(), &info, &size) == 0 ? info.id : 0;
}

std::uint32_t program_id(int program) {
  bpf_prog_info info{};
  std::uint32_t size = sizeof(info);
  FAIRLEAD_CHECK(bpf_obj_get_info_by_fd(program, &info, &size) == 0);
  return info.id;
}

/// Programs by number on a device (46, 47: TCX) or a cgroup.
std::vector<std::uint32_t> programs_at(std::uint32_t target, std::uint32_t type) {
  std::array<std::uint32_t, 16> ids{};
  bpf_attr attr{};
  attr.query.target_fd = target;
  attr.query.attach_type = type;
  attr.query.prog_ids = reinterpret_cast<std::uintptr_t>(ids.data());
  attr.query.prog_cnt = ids.size();
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  FAIRLEAD_CHECK(::syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) == 0);
  return {ids.begin(), ids.begin() + attr.query.prog_cnt};
}

std::vector<std::string> files_below(const std::string& directory) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory, error)) {
    // The kernel's own files, in the root of every bpffs.
    if (entry.path().extension() != ".debug") {
      out.push_back(entry.path().string());
    }
  }
  return out;
}

/// The bpffs of this process, and a cgroup below the mount for those who want one.
class World : public ::testing::Environment {
 public:
  void SetUp() override {
    const ino_t before = inode("/proc/self/ns/mnt");
    if (::unshare(CLONE_NEWNS | CLONE_NEWNET) != 0) {
      ::perror("namespaces of our own are needed (root)");
      ::_exit(77);
    }
    FAIRLEAD_CHECK(inode("/proc/self/ns/mnt") != before);
    FAIRLEAD_CHECK(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    std::string pattern =
        (std::filesystem::temp_directory_path() / "fairlead-bpf-test.XXXXXX").string();
    FAIRLEAD_CHECK(::mkdtemp(pattern.data()) != nullptr);
    root = pattern;
    FAIRLEAD_CHECK(::mount("bpf", root.c_str(), "bpf", 0, nullptr) == 0);
    if (const Result<std::string> mount = cgroup_mount()) {
      cgroup = *mount + "/fairlead-bpf-test-" + std::to_string(::getpid());
      FAIRLEAD_CHECK(::mkdir(cgroup.c_str(), 0755) == 0);
    }
  }
  void TearDown() override {
    FAIRLEAD_CHECK(::umount2(root.c_str(), MNT_DETACH) == 0);
    FAIRLEAD_CHECK(::rmdir(root.c_str()) == 0);
    FAIRLEAD_CHECK(cgroup.empty() || ::rmdir(cgroup.c_str()) == 0);
  }

  static inline std::string root, cgroup;
};
const auto* const world = ::testing::AddGlobalTestEnvironment(new World);

class BpfKernel : public ::testing::Test {
 protected:
  void SetUp() override {
    enter_new_network();
    pins_ = World::root + "/fairlead";
    const Status prepared = prepare_directory(pins_);
    ASSERT_TRUE(prepared) << prepared.error().text();
  }
  void TearDown() override {
    EXPECT_TRUE(remove_all(pins_));
    EXPECT_THAT(files_below(World::root), IsEmpty());
  }

  [[nodiscard]] Object load(const Sizes& sizes = kSizes) const {
    Result<Object> object = Object::load(pins_, sizes);
    FAIRLEAD_CHECK(object.has_value() ||
                   (std::fputs(object.error().text().c_str(), stderr), false));
    return std::move(*object);
  }
  [[nodiscard]] std::unique_ptr<Tables> tables() const {
    Result<std::unique_ptr<Tables>> opened = open_tables(pins_);
    FAIRLEAD_CHECK(opened.has_value());
    return std::move(*opened);
  }
  [[nodiscard]] std::string link(std::uint32_t interface, const std::string& side) const {
    return link_directory(pins_) + "/" + std::to_string(interface) + "-" + side;
  }

  std::string pins_;
};

fl_vs_key key_of(std::uint32_t i) {
  fl_vs_key key{};
  key.addr.words[3] = i;
  key.port = to_abi(net::Port{80});
  key.protocol = 6;
  return key;
}

fl_tuple tuple_of(std::uint32_t i) {
  fl_tuple key{};
  key.saddr.words[3] = i;
  return key;
}

template <typename Key, typename Value>
void fill(const std::string& pins, const std::string& name, std::uint32_t count,
          Key (*key_at)(std::uint32_t)) {
  const UniqueFd map = std::move(*open_map(pins, name));
  for (std::uint32_t i = 0; i < count; ++i) {
    const Key key = key_at(i);
    Value value{};
    value.rs = i;
    FAIRLEAD_CHECK(bpf_map_update_elem(map.get(), &key, &value, BPF_ANY) == 0);
  }
}

// --- Maps and their directory --------------------------------------------------------------------

TEST_F(BpfKernel, WhatMapsHoldIsThereAfterTheProcess) {
  {
    const Object object = load();
    const auto before = tables();
    EXPECT_THAT(before->vs(), SizeIs(kSizes.virtual_servers));
    EXPECT_EQ(before->flow_capacity(), kSizes.connections * 2);
    before->vs()[7].persistence = 10'800;
    before->config().layout = FL_LAYOUT;
    const NumberEntry entry{key_of(1), 7};
    EXPECT_TRUE(before->put_numbers({&entry, 1}).front());
    EXPECT_TRUE(before->put_class({to_abi(*net::IpPrefix::parse("198.51.100.0/24")), 1}));
    EXPECT_TRUE(before->put_device({5, {}}));
    EXPECT_EQ(before->events(), std::vector<std::uint64_t>(FL_EVENTS));
  }
  // Only the maps' pins are left.
  const Object object = load();
  EXPECT_FALSE(object.is_taking_over());
  const auto after = tables();
  EXPECT_THAT(after->vs(), SizeIs(kSizes.virtual_servers));
  EXPECT_EQ(after->vs()[7].persistence, 10'800U);
  EXPECT_EQ(after->config().layout, static_cast<std::uint32_t>(FL_LAYOUT));
  ASSERT_THAT(*after->numbers(), SizeIs(1));
  EXPECT_EQ(after->numbers()->front().number, 7U);
  EXPECT_THAT(*after->classes(), SizeIs(1));
  EXPECT_EQ(after->devices()->front().interface, 5U);
  EXPECT_TRUE(after->erase_device(5));
  EXPECT_TRUE(after->erase_device(5)) << "what is gone already is success";
  EXPECT_THAT(*after->devices(), IsEmpty());
}

TEST_F(BpfKernel, AMapThatCannotBeTakenOverIsNamed) {
  const int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "vs", 4, 8, 16, nullptr);
  ASSERT_GE(map, 0);
  ASSERT_EQ(bpf_obj_pin(map, (map_directory(pins_) + "/vs").c_str()), 0);
  ::close(map);
  const Result<Object> object = Object::load(pins_, kSizes);
  ASSERT_FALSE(object);
  EXPECT_THAT(object.error().text(),
              AllOf(HasSubstr("map vs: it has no BTF"), HasSubstr("fairlead cleanup")));
}

TEST_F(BpfKernel, WhyTheKernelRefusesIsInTheError) {
  Sizes sizes = kSizes;
  sizes.slots = 0xffff'ffffU;
  const Result<Object> object = Object::load(pins_, sizes);
  ASSERT_FALSE(object);
  EXPECT_THAT(object.error().text(), HasSubstr("'slots'"));
}

// --- Maps of another size or layout --------------------------------------------------------------

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

TEST_F(BpfKernel, TablesWithoutMaps) {
  const auto opened = open_tables(pins_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().kind(), ErrorKind::kNotFound);
}

TEST_F(BpfKernel, ADirectoryOutsideABpffs) {
  const Status status = prepare_directory("/proc/fairlead");
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().text(), HasSubstr("is on no bpffs"));
  EXPECT_FALSE(prepare_directory("/sys/fs/bpf-not-there/x"));
}

TEST_F(BpfKernel, MountsABpffsAtTheUsualPlace) {
  const std::string usual = "/sys/fs/bpf";
  while (is_on_bpffs(usual)) {  // in this process's mount namespace
    ASSERT_EQ(::umount2(usual.c_str(), MNT_DETACH), 0);
  }
  const Status status = prepare_directory(usual + "/fairlead");
  EXPECT_TRUE(status) << status.error().text();
  EXPECT_TRUE(is_on_bpffs(usual));
  EXPECT_EQ(::umount2(usual.c_str(), MNT_DETACH), 0);
}

TEST_F(BpfKernel, OneProcessAtATimeHasTheDirectory) {
  Result<UniqueFd> first = lock_directory(pins_);
  ASSERT_TRUE(first) << first.error().text();
  const Result<UniqueFd> second = lock_directory(pins_);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().text(), HasSubstr("another process"));
  first->reset();
  EXPECT_TRUE(lock_directory(pins_));
}

TEST_F(BpfKernel, RemovalLeavesWhatIsNotOurs) {
  {
    const Object object = load();
  }
  const std::string other = pins_ + "/other";
  ASSERT_EQ(::mkdir(other.c_str(), 0755), 0);
  EXPECT_TRUE(remove_all(pins_));
  EXPECT_THAT(files_below(World::root), ::testing::UnorderedElementsAre(pins_, other));
  ASSERT_EQ(::rmdir(other.c_str()), 0);
  EXPECT_TRUE(remove_all(pins_));
  EXPECT_TRUE(remove_all(pins_)) << "what is gone already is success";
}

// --- Walks ---------------------------------------------------------------------------------------

TEST_F(BpfKernel, WalksMeetEveryEntryOnceAtAnyBatchSize) {
  const Object object = load();
  const auto maps = tables();
  constexpr std::uint32_t kFlows = 6000;
  fill<fl_tuple, fl_flow>(pins_, "flows", kFlows, tuple_of);
  // 1 is less than some buckets hold.
  for (const std::size_t most : {1UL, 7UL, 512UL, 100'000UL}) {
    std::map<std::uint32_t, int> met;
    Cursor cursor;
    std::size_t calls = 0;
    while (!cursor.at_end) {
      std::vector<FlowEntry> entries;
      const Status status = maps->read_flows(cursor, most, entries);
      ASSERT_TRUE(status) << most << ": " << status.error().text();
      ASSERT_LT(++calls, 20'000U);
      for (const FlowEntry& entry : entries) {
        EXPECT_EQ(entry.key.saddr.words[3], entry.value.rs);
        ++met[entry.value.rs];
      }
    }
    EXPECT_THAT(met, SizeIs(kFlows)) << most;
    EXPECT_TRUE(std::ranges::all_of(met, [](const auto& each) { return each.second == 1; }));
  }
  EXPECT_EQ(maps->find_flow(tuple_of(17))->rs, 17U);
  EXPECT_EQ(maps->find_flow(tuple_of(kFlows)).error().kind(), ErrorKind::kNotFound);
}

TEST_F(BpfKernel, EraseSkipsWhatIsGone) {
  const Object object = load();
  const auto maps = tables();
  fill<fl_tuple, fl_flow>(pins_, "flows", 1000, tuple_of);
  std::vector<fl_tuple> keys;
  for (std::uint32_t i = 0; i < 2000; i += 2) {  // the latter half is not there
    keys.push_back(tuple_of(i));
  }
  std::ranges::reverse(keys);
  EXPECT_TRUE(maps->erase_flows(keys));
  EXPECT_TRUE(maps->erase_flows(keys));
  EXPECT_TRUE(maps->erase_flows({}));
  for (std::uint32_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(maps->find_flow(tuple_of(i)).has_value(), i % 2 == 1) << i;
  }
}

TEST_F(BpfKernel, ManyNumbersAndOneTooMany) {
  const Object object = load();
  const auto maps = tables();
  const std::uint32_t room = kSizes.virtual_servers * 2;
  std::vector<NumberEntry> entries;
  std::vector<fl_vs_key> keys;
  for (std::uint32_t i = 0; i < room + 3; ++i) {
    entries.push_back({key_of(i), i});
    keys.push_back(key_of(i));
  }
  const std::vector<Status> results = maps->put_numbers(entries);
  ASSERT_THAT(results, SizeIs(entries.size()));
  EXPECT_EQ(std::ranges::count_if(results, [](const Status& each) { return each.has_value(); }),
            room);
  EXPECT_THAT(results.back().error().text(), HasSubstr("map numbers"));
  // An entry that is there can be replaced even in a full map.
  const NumberEntry again{key_of(3), 77};
  EXPECT_TRUE(maps->put_numbers({&again, 1}).front());
  EXPECT_THAT(*maps->numbers(), SizeIs(room));
  const std::vector<Status> erased = maps->erase_numbers(keys);
  ASSERT_THAT(erased, SizeIs(keys.size()));
  EXPECT_TRUE(std::ranges::all_of(erased, [](const Status& each) { return each.has_value(); }));
  EXPECT_THAT(*maps->numbers(), IsEmpty());
}

// --- Devices -------------------------------------------------------------------------------------

class BpfDevice : public BpfKernel, public ::testing::WithParamInterface<Hook> {
 protected:
  /// Programs by number at a side of a device, as the kernel or its own tool tells.
  [[nodiscard]] std::vector<std::uint32_t> at(const std::string& device,
                                              const std::string& side) const {
    if (GetParam() == Hook::kTcx) {
      return programs_at(::if_nametoindex(device.c_str()), side == "in" ? 46 : 47);
    }
    std::vector<std::uint32_t> ids;
    const std::string text = filters(device, side == "in" ? "ingress" : "egress");
    for (std::size_t from = text.find(" id "); from != std::string::npos;
         from = text.find(" id ", from + 1)) {
      ids.push_back(static_cast<std::uint32_t>(std::strtoul(text.c_str() + from + 4, nullptr, 10)));
    }
    return ids;
  }
  [[nodiscard]] Status attach(const Object& object, std::uint32_t interface,
                              bool is_ethernet = true) const {
    return attach_device(pins_, object, GetParam(), interface, is_ethernet);
  }
};

TEST_P(BpfDevice, ProgramsAreReplacedInPlace) {
  const std::uint32_t device = add_veth("fl0", "fl1");
  std::vector<std::uint32_t> links;
  for (int round = 0; round < 2; ++round) {
    const Object object = load();
    const Status status = attach(object, device);
    ASSERT_TRUE(status) << status.error().text();
    EXPECT_THAT(at("fl0", "in"), ::testing::ElementsAre(program_id(object.program("fl_in"))));
    EXPECT_THAT(at("fl0", "out"), ::testing::ElementsAre(program_id(object.program("fl_out"))));
    EXPECT_THAT(at("fl1", "in"), IsEmpty());
    if (GetParam() == Hook::kTcx) {
      links.push_back(link_id(link(device, "in")));
    }
  }
  if (GetParam() == Hook::kTcx) {
    EXPECT_NE(links[0], 0U);
    EXPECT_EQ(links[0], links[1]) << "another link means that packets passed unseen";
  }
  EXPECT_THAT(at("fl0", "in"), SizeIs(1)) << "stays after the process";
  EXPECT_TRUE(detach_device(pins_, GetParam(), device));
  EXPECT_THAT(at("fl0", "in"), IsEmpty());
  EXPECT_THAT(at("fl0", "out"), IsEmpty());
  EXPECT_TRUE(detach_device(pins_, GetParam(), device)) << "what is gone already is success";
}

TEST_P(BpfDevice, OtherProgramsForDevicesWithoutEthernet) {
  if (!run_program({"ip", "tuntap", "add", "dev", "flt", "mode", "tun"}, "", 10s)) {
    GTEST_SKIP() << "no tun devices";
  }
  const Object object = load();
  ASSERT_TRUE(attach(object, ::if_nametoindex("flt"), false));
  EXPECT_THAT(at("flt", "in"), ::testing::ElementsAre(program_id(object.program("fl_in_l3"))));
  EXPECT_THAT(at("flt", "out"), ::testing::ElementsAre(program_id(object.program("fl_out_l3"))));
}

TEST_P(BpfDevice, ANewDeviceMayHaveAnOldOnesIndex) {
  const Object object = load();
  const std::uint32_t device = add_veth("fl0", "fl1", 70);
  ASSERT_EQ(device, 70U);
  ASSERT_TRUE(attach(object, device));
  run({"ip", "link", "del", "fl0"});
  add_veth("fl0", "fl1", 70);
  EXPECT_THAT(at("fl0", "in"), IsEmpty());
  ASSERT_TRUE(attach(object, device));
  EXPECT_THAT(at("fl0", "in"), SizeIs(1));
  EXPECT_THAT(at("fl0", "out"), SizeIs(1));
}

TEST_P(BpfDevice, AnotherNamespaceMayHaveThatIndexToo) {
  const Object object = load();
  const UniqueFd before(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(attach(object, add_veth("fl0", "fl1", 70)));
  enter_new_network();
  ASSERT_TRUE(attach(object, add_veth("fl0", "fl1", 70)));
  EXPECT_THAT(at("fl0", "in"), SizeIs(1)) << "the pin leads to a device of another namespace";
  EXPECT_THAT(at("fl0", "out"), SizeIs(1));
}

TEST_P(BpfDevice, AMissingDeviceIsNamed) {
  const Object object = load();
  const Status status = attach(object, 4711);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind(), ErrorKind::kNotFound) << status.error().text();
  EXPECT_THAT(status.error().text(), HasSubstr("device 4711"));
  EXPECT_TRUE(detach_device(pins_, GetParam(), 4711));
  EXPECT_THAT(files_below(link_directory(pins_)), IsEmpty());
}

TEST_P(BpfDevice, CleanUpTakesOnlyOurs) {
  const std::uint32_t device = add_veth("fl0", "fl1");
  add_foreign_filter(device);
  {
    const Object object = load();
    ASSERT_TRUE(attach(object, device));
    EXPECT_THAT(at("fl0", "out"), SizeIs(1));
  }
  // The process that cleans up has loaded nothing; the library must not speak to the user.
  testing::internal::CaptureStderr();
  const Status removed = remove_all(pins_);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_TRUE(removed) << removed.error().text();
  EXPECT_THAT(at("fl0", "out"), IsEmpty());
  EXPECT_THAT(filters("fl0", "ingress"), AllOf(HasSubstr("foreign"), Not(HasSubstr("fl_in"))));
}

std::set<Hook> hooks_of_this_kernel() { return {best_hook(), Hook::kClsact}; }

INSTANTIATE_TEST_SUITE_P(Hooks, BpfDevice, ::testing::ValuesIn(hooks_of_this_kernel()),
                         [](const auto& hook) { return std::string(text(hook.param)); });

TEST_F(BpfKernel, DevicesAreListedAsTheChoiceNeedsThem) {
  const std::uint32_t device = add_veth("fl0", "fl1");
  run({"ip", "addr", "add", "192.0.2.1/24", "dev", "fl0"});
  const auto route = netlink::make_route();
  ASSERT_TRUE(route);
  const auto links = (*route)->links();
  const auto addresses = (*route)->addresses();
  ASSERT_TRUE(links && addresses);
  const auto devices = choose_devices(*links, *addresses, {});
  const auto found = std::ranges::find(devices, device, &Device::interface);
  ASSERT_NE(found, devices.end());
  EXPECT_EQ(found->name, "fl0");
  EXPECT_TRUE(found->is_ethernet);
  EXPECT_EQ(found->hide4->text(), "192.0.2.1");
  EXPECT_THAT(devices, SizeIs(2)) << "not lo";
}

// --- Cgroups -------------------------------------------------------------------------------------

class BpfCgroup : public BpfKernel {
 protected:
  void SetUp() override {
    BpfKernel::SetUp();
    if (World::cgroup.empty()) {
      GTEST_SKIP() << "cgroup2 is mounted nowhere";
    }
  }

  static std::vector<std::uint32_t> at(const std::string& cgroup, bpf_attach_type type) {
    const UniqueFd directory(::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return programs_at(static_cast<std::uint32_t>(directory.get()), type);
  }
};

TEST_F(BpfCgroup, ProgramsAreReplacedInPlace) {
  std::vector<std::uint32_t> links;
  for (int round = 0; round < 2; ++round) {
    const Object object = load();
    const Status status = attach_cgroup(pins_, object, World::cgroup);
    ASSERT_TRUE(status) << status.error().text();
    EXPECT_THAT(at(World::cgroup, BPF_CGROUP_INET4_CONNECT),
                ::testing::ElementsAre(program_id(object.program("fl_connect4"))));
    EXPECT_THAT(at(World::cgroup, BPF_CGROUP_INET6_GETPEERNAME),
                ::testing::ElementsAre(program_id(object.program("fl_getpeername6"))));
    links.push_back(link_id(link_directory(pins_) + "/cgroup-connect4"));
    EXPECT_THAT(files_below(link_directory(pins_)), SizeIs(8));
  }
  EXPECT_NE(links[0], 0U);
  EXPECT_EQ(links[0], links[1]);
  EXPECT_TRUE(detach_cgroup(pins_));
  EXPECT_THAT(at(World::cgroup, BPF_CGROUP_INET4_CONNECT), IsEmpty());
  EXPECT_TRUE(detach_cgroup(pins_));
}

TEST_F(BpfCgroup, AnotherCgroupThanLastTime) {
  const Object object = load();
  const std::string other = World::cgroup + "/other";
  ASSERT_EQ(::mkdir(other.c_str(), 0755), 0);
  EXPECT_TRUE(attach_cgroup(pins_, object, World::cgroup));
  EXPECT_TRUE(attach_cgroup(pins_, object, other));
  EXPECT_THAT(at(World::cgroup, BPF_CGROUP_UDP4_SENDMSG), IsEmpty());
  EXPECT_THAT(at(other, BPF_CGROUP_UDP4_SENDMSG), SizeIs(1));
  ASSERT_EQ(::rmdir(other.c_str()), 0);
  // The cgroup is gone, its links are not.
  const Status again = attach_cgroup(pins_, object, World::cgroup);
  EXPECT_TRUE(again) << again.error().text();
  EXPECT_THAT(at(World::cgroup, BPF_CGROUP_UDP4_SENDMSG), SizeIs(1));
}

TEST_F(BpfCgroup, AMissingCgroupIsNamed) {
  const Object object = load();
  const Status status = attach_cgroup(pins_, object, World::cgroup + "/none");
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().text(), HasSubstr("/none"));
}

TEST_F(BpfKernel, EachNamespaceHasItsCookie) {
  const Result<std::uint64_t> first = netns_cookie();
  ASSERT_TRUE(first) << first.error().text();
  EXPECT_EQ(*first, *netns_cookie());
  enter_new_network();
  EXPECT_NE(*first, *netns_cookie());
}

// --- Probe ---------------------------------------------------------------------------------------

TEST_F(BpfKernel, ProbeLeavesNothing) {
  const ino_t network = inode("/proc/thread-self/ns/net");
  const std::vector<Finding> findings = probe({.pin_directory = pins_, .cgroup = World::cgroup});
  EXPECT_TRUE(can_serve(findings)) << format(findings);
  const bool has_tcx = best_hook() == Hook::kTcx;  // Linux 6.6; filters serve before
  std::set<Feature> lacks;
  if (!has_tcx) {
    lacks = {Feature::kTcx};
  }
  if (is_old_kernel()) {
    lacks = {Feature::kTcx, Feature::kFetchAdd, Feature::kLoop, Feature::kReason,
             Feature::kRouteMtu};
  }
  for (const Finding& finding : findings) {
    const bool expected = !lacks.contains(finding.feature);
    EXPECT_EQ(finding.state, expected ? Finding::State::kAvailable : Finding::State::kRefused)
        << format(findings);
  }
  EXPECT_EQ(inode("/proc/thread-self/ns/net"), network);
  if (has_tcx) {
    EXPECT_THAT(programs_at(1, 46), IsEmpty());
  }
  EXPECT_EQ(run({"tc", "qdisc", "show", "dev", "lo", "ingress"}), "");
  EXPECT_THAT(files_below(map_directory(pins_)), IsEmpty());
  for (const auto& entry : std::filesystem::directory_iterator(World::cgroup)) {
    EXPECT_FALSE(entry.is_directory()) << entry.path();
  }
}

}  // namespace
}  // namespace fairlead::bpf
