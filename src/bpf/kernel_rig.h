// SPDX-License-Identifier: Apache-2.0
// What the kernel tests stand on. The process leaves the caller's network and mount namespaces
// before anything else: devices, filters and the bpffs are its own, and vanish with it. Cgroup
// programs go on a child cgroup that nobody is in.
#pragma once

#include <bpf/bpf.h>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <net/if.h>
#include <sched.h>
#include <string>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/subprocess.h"
#include "bpf/attach.h"
#include "bpf/kernel_tables.h"
#include "bpf/object.h"
#include "bpf/tables.h"

namespace fairlead::bpf {

inline constexpr Sizes kSizes = {.virtual_servers = 8192,
                                 .real_servers = 256,
                                 .slots = 4096,
                                 .connections = 8192,
                                 .half_open = 256,
                                 .clients = 1024,
                                 .fragments = 64,
                                 .sockets = 64,
                                 .devices = 64};

inline ino_t inode(const char* path) {
  struct stat info{};
  FAIRLEAD_CHECK(::stat(path, &info) == 0);
  return info.st_ino;
}

inline void enter_new_network() {
  const ino_t before = inode("/proc/thread-self/ns/net");
  FAIRLEAD_CHECK(::unshare(CLONE_NEWNET) == 0);
  FAIRLEAD_CHECK(inode("/proc/thread-self/ns/net") != before);
}

inline std::string run(const std::vector<std::string>& argv) {
  const auto output = run_program(argv, "", std::chrono::seconds(20));
  EXPECT_TRUE(output) << output.error().text();
  return output.value_or("");
}

inline std::uint32_t add_veth(const std::string& name, const std::string& peer,
                              std::uint32_t index = 0) {
  std::vector<std::string> argv = {"ip", "link", "add", name};
  if (index != 0) {
    argv.insert(argv.end(), {"index", std::to_string(index)});
  }
  argv.insert(argv.end(), {"type", "veth", "peer", "name", peer});
  run(argv);
  return ::if_nametoindex(name.c_str());
}

inline std::uint32_t program_id(int program) {
  bpf_prog_info info{};
  std::uint32_t size = sizeof(info);
  FAIRLEAD_CHECK(bpf_obj_get_info_by_fd(program, &info, &size) == 0);
  return info.id;
}

inline std::vector<std::string> files_below(const std::string& directory) {
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
    EXPECT_THAT(files_below(World::root), ::testing::IsEmpty());
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

inline fl_vs_key key_of(std::uint32_t i) {
  fl_vs_key key{};
  key.addr.words[3] = i;
  key.port = to_abi(net::Port{80});
  key.protocol = 6;
  return key;
}

inline fl_tuple tuple_of(std::uint32_t i) {
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

}  // namespace fairlead::bpf
