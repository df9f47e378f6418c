// SPDX-License-Identifier: Apache-2.0
// Programs, maps and hooks on the kernel.
#include <algorithm>
#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <chrono>
#include <fcntl.h>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <map>
#include <net/if.h>
#include <set>
#include <string>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "bpf/attach.h"
#include "bpf/devices.h"
#include "bpf/helpers.h"
#include "bpf/kernel_rig.h"
#include "bpf/kernel_tables.h"
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

const auto* const world = ::testing::AddGlobalTestEnvironment(new World);

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

// A start with other patterns must find what the last one chose, and nothing else.
TEST_P(BpfDevice, WhatAnEarlierProcessHasAttachedIsFound) {
  EXPECT_THAT(*attached_devices(pins_, GetParam()), IsEmpty());
  const std::uint32_t device = add_veth("fl0", "fl1");
  const std::uint32_t peer = ::if_nametoindex("fl1");
  const std::uint32_t other = add_veth("fl2", "fl3");
  add_foreign_filter(other);
  {
    const Object object = load();
    ASSERT_TRUE(attach(object, device));
    ASSERT_TRUE(attach(object, peer));
  }
  EXPECT_THAT(*attached_devices(pins_, GetParam()),
              ::testing::ElementsAreArray(std::set{device, peer}));
  ASSERT_TRUE(detach_device(pins_, GetParam(), device));
  EXPECT_THAT(*attached_devices(pins_, GetParam()), ::testing::ElementsAre(peer));
  run({"ip", "link", "del", "fl0"});
  if (GetParam() == Hook::kTcx) {
    EXPECT_THAT(*attached_devices(pins_, GetParam()), ::testing::ElementsAre(peer)) << "its pin";
    ASSERT_TRUE(detach_device(pins_, GetParam(), peer));
  }
  EXPECT_THAT(*attached_devices(pins_, GetParam()), IsEmpty());
  EXPECT_THAT(filters("fl2", "ingress"), HasSubstr("foreign"));
}

TEST_P(BpfDevice, WhatIsAttachedIsFoundWithoutCapSysAdmin) {
  const std::uint32_t device = add_veth("fl0", "fl1");
  const Object object = load();
  ASSERT_TRUE(attach(object, device));
  std::thread([&] {  // capabilities are the thread's
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> data{};
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
    ASSERT_EQ(::syscall(SYS_capget, &header, data.data()), 0);
    data[0].effective &= ~(1U << CAP_SYS_ADMIN);
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
    ASSERT_EQ(::syscall(SYS_capset, &header, data.data()), 0);
    EXPECT_THAT(*attached_devices(pins_, GetParam()), ::testing::ElementsAre(device));
  })
      .join();
}

TEST_P(BpfDevice, AnotherDirectorysDevicesAreNotOurs) {
  const std::string others = World::root + "/others";
  ASSERT_TRUE(prepare_directory(others));
  const std::uint32_t device = add_veth("fl0", "fl1");
  const Object ours = load();
  {
    const Result<Object> object = Object::load(others, kSizes);
    ASSERT_TRUE(object) << object.error().text();
    ASSERT_TRUE(attach_device(others, *object, GetParam(), device, true));
  }
  EXPECT_THAT(*attached_devices(pins_, GetParam()), IsEmpty());
  EXPECT_THAT(*attached_devices(others, GetParam()), ::testing::ElementsAre(device));
  EXPECT_TRUE(remove_all(others));
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
