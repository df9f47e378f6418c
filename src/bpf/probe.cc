// SPDX-License-Identifier: Apache-2.0
#include "bpf/probe.h"

#include <array>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <optional>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <utility>

#include "base/unique_fd.h"
#include "bpf/attach.h"
#include "bpf/helpers.h"
#include "bpf/instruction.h"
#include "bpf/library_log.h"
#include "bpf/netns_cookie.h"
#include "bpf/object.h"
#include "bpf/options.h"

namespace fairlead::bpf {
namespace {

using State = Finding::State;

constexpr std::uint32_t kLoopback = 1;  // its index in every network namespace

constexpr std::array<bpf_attach_type, 8> kSocketHooks = {
    BPF_CGROUP_INET4_CONNECT,     BPF_CGROUP_INET6_CONNECT,     BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_SENDMSG,      BPF_CGROUP_UDP4_RECVMSG,      BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME,
};

/// `return 1`: lets packets go on, and sockets do as they please.
Result<UniqueFd> load_least(bpf_prog_type type, std::optional<bpf_attach_type> attach = {}) {
  const std::array<bpf_insn, 2> code = {
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  auto opts = options<bpf_prog_load_opts>();
  if (attach) {
    opts.expected_attach_type = *attach;
  }
  UniqueFd program(
      bpf_prog_load(type, "fl_probe", "Dual BSD/GPL", code.data(), code.size(), &opts));
  if (!program) {
    return fail_errno(errno, "load a program");
  }
  return program;
}

Status link_to(int program, std::uint32_t target, std::uint32_t type) {
  bpf_attr attr{};
  attr.link_create.prog_fd = static_cast<std::uint32_t>(program);
  attr.link_create.target_fd = target;
  attr.link_create.attach_type = type;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  const UniqueFd link(static_cast<int>(::syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr))));
  return link ? Status{} : fail_errno(errno, "link a program");
}

Result<UniqueFd> make_map(bpf_map_type type, std::uint32_t flags) {
  auto opts = options<bpf_map_create_opts>();
  opts.map_flags = flags;
  UniqueFd map(
      bpf_map_create(type, "fl_probe", sizeof(std::uint32_t), sizeof(std::uint64_t), 8, &opts));
  if (!map) {
    return fail_errno(errno, "make a map");
  }
  return map;
}

/// The rights that bpf(2) and the hooks ask for, of those that the thread has not.
std::string missing_rights() {
  __user_cap_header_struct header{};
  header.version = _LINUX_CAPABILITY_VERSION_3;
  std::array<__user_cap_data_struct, 2> data{};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): the only form the call has
  if (::syscall(SYS_capget, &header, data.data()) != 0) {
    return {};
  }
  const auto has = [&](unsigned right) {
    return ((data.at(right / 32).effective >> (right % 32)) & 1U) != 0;
  };
  std::string out;
  // CAP_SYS_ADMIN stands for the two that were split off it.
  for (const auto& [right, name, covered] :
       {std::tuple{CAP_BPF, "CAP_BPF", true}, std::tuple{CAP_PERFMON, "CAP_PERFMON", true},
        std::tuple{CAP_NET_ADMIN, "CAP_NET_ADMIN", false}}) {
    if (!has(static_cast<unsigned>(right)) && !(covered && has(CAP_SYS_ADMIN))) {
      out += (out.empty() ? "" : ", ") + std::string(name);
    }
  }
  return out;
}

Status try_syscall() {
  const Result<UniqueFd> map = make_map(BPF_MAP_TYPE_ARRAY, 0);
  return map ? Status{} : fail(map.error());
}

Status try_fetch_add() {
  const std::array<bpf_insn, 5> code = {
      instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_1, 0, 0, 1),
      instruction(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_1, -8, 0),
      instruction(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_10, BPF_REG_1, -8, BPF_ADD | BPF_FETCH),
      instruction(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_0, BPF_REG_1, 0, 0),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  const UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "fl_probe", "Dual BSD/GPL",
                                       code.data(), code.size(), nullptr));
  return program ? Status{} : fail_errno(errno, "load a program");
}

Status try_array_mmap() {
  const Result<UniqueFd> map = make_map(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE);
  if (!map) {
    return fail(map.error());
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const memory = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, map->get(), 0);
  if (memory == MAP_FAILED) {
    return fail_errno(errno, "mmap");
  }
  ::munmap(memory, page);
  return {};
}

Status try_batches() {
  const Result<UniqueFd> map = make_map(BPF_MAP_TYPE_HASH, 0);
  if (!map) {
    return fail(map.error());
  }
  std::array<std::uint32_t, 2> keys = {1, 2};
  std::array<std::uint64_t, 2> values{};
  std::uint32_t count = keys.size();
  auto opts = options<bpf_map_batch_opts>();
  if (bpf_map_update_batch(map->get(), keys.data(), values.data(), &count, &opts) != 0) {
    return fail_errno(errno, "write");
  }
  std::array<std::uint32_t, 8> found{};
  std::array<std::uint64_t, 8> found_values{};
  std::uint32_t mark = 0;
  count = found.size();
  if (bpf_map_lookup_batch(map->get(), nullptr, &mark, found.data(), found_values.data(), &count,
                           &opts) != 0 &&
      errno != ENOENT) {
    return fail_errno(errno, "read");
  }
  return {};
}

Finding try_pinning(const std::string& pin_directory) {
  if (is_on_bpffs(pin_directory)) {
    return {Feature::kPinning, State::kAvailable, ""};
  }
  return can_get_bpffs(pin_directory)
             ? Finding{Feature::kPinning, State::kNotTried, "it is mounted at the first start"}
             : Finding{Feature::kPinning, State::kRefused, pin_directory + " is on no bpffs"};
}

Status try_tcx() {
  const Result<UniqueFd> program = load_least(BPF_PROG_TYPE_SCHED_CLS);
  return program ? link_to(program->get(), kLoopback, kTcxIngress) : fail(program.error());
}

Status try_clsact() {
  const Result<UniqueFd> program = load_least(BPF_PROG_TYPE_SCHED_CLS);
  if (!program) {
    return fail(program.error());
  }
  auto hook = options<bpf_tc_hook>();
  hook.ifindex = static_cast<int>(kLoopback);
  hook.attach_point = BPF_TC_INGRESS;
  if (const int error = bpf_tc_hook_create(&hook); error != 0 && error != -EEXIST) {
    return fail_errno(-error, "add the qdisc");
  }
  auto opts = options<bpf_tc_opts>();
  opts.prog_fd = program->get();
  if (const int error = bpf_tc_attach(&hook, &opts); error != 0) {
    return fail_errno(-error, "add a filter");
  }
  return {};
}

Status try_socket_hooks(const std::string& parent) {
  const std::string path = parent + "/fairlead-probe-" + std::to_string(::getpid());
  if (::mkdir(path.c_str(), 0700) != 0) {
    return fail_errno(errno, "make " + path);
  }
  Status status;
  {
    const UniqueFd cgroup(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!cgroup) {
      status = fail_errno(errno, "open " + path);
    }
    for (const bpf_attach_type hook : kSocketHooks) {
      if (!status) {
        break;
      }
      const Result<UniqueFd> program = load_least(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook);
      status = program ? link_to(program->get(), static_cast<std::uint32_t>(cgroup.get()), hook)
                       : fail(program.error());
    }
  }
  ::rmdir(path.c_str());
  return status;
}

Finding finding(Feature feature, const Status& status) {
  return status ? Finding{feature, State::kAvailable, ""}
                : Finding{feature, State::kRefused, status.error().text()};
}

/// The namespace and what was put on its device vanish with the thread.
std::array<Finding, 2> try_devices() {
  std::array<Finding, 2> findings = {
      {{Feature::kTcx, State::kNotTried, ""}, {Feature::kClsact, State::kNotTried, ""}}};
  std::thread([&findings] {
    const LibraryLog quiet;
    if (::unshare(CLONE_NEWNET) != 0) {
      const Error why = Error::from_errno(errno, "make a network namespace to try it in");
      findings[0].detail = why.text();
      findings[1].detail = why.text();
      return;
    }
    findings[0] = finding(Feature::kTcx, try_tcx());
    findings[1] = finding(Feature::kClsact, try_clsact());
  }).join();
  return findings;
}

constexpr std::array<Feature, 10> kWithSyscall = {
    Feature::kPrograms, Feature::kFetchAdd,    Feature::kLoop,    Feature::kReason,
    Feature::kRouteMtu, Feature::kArrayMmap,   Feature::kBatches, Feature::kTcx,
    Feature::kClsact,   Feature::kSocketHooks,
};

Finding find_helper(Feature feature, bpf_prog_type type, bpf_func_id helper) {
  return has_helper(type, helper)
             ? Finding{feature, State::kAvailable, ""}
             : Finding{feature, State::kRefused, "the kernel has no such function"};
}

/// All of kWithSyscall.
void try_bpf(const std::string& cgroup, std::vector<Finding>& findings) {
  findings.push_back(finding(Feature::kPrograms, Object::try_load()));
  if (is_old_kernel() && findings.back().state == State::kAvailable) {
    findings.back().detail = "those for kernels before Linux 5.18";
  }
  findings.push_back(finding(Feature::kFetchAdd, try_fetch_add()));
  findings.push_back(find_helper(Feature::kLoop, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_loop));
  findings.push_back(
      find_helper(Feature::kReason, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval));
  // Not that function, but what came with it.
  findings.push_back(find_helper(Feature::kRouteMtu, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_check_mtu));
  findings.push_back(finding(Feature::kArrayMmap, try_array_mmap()));
  findings.push_back(finding(Feature::kBatches, try_batches()));
  for (Finding& each : try_devices()) {
    findings.push_back(std::move(each));
  }
  findings.push_back(cgroup.empty() ? Finding{Feature::kSocketHooks, State::kNotTried,
                                              "no cgroup2 directory is named"}
                                    : finding(Feature::kSocketHooks, try_socket_hooks(cgroup)));
}

}  // namespace

std::vector<Finding> probe(const ProbeRequest& request) {
  const LibraryLog quiet;
  std::vector<Finding> findings;
  findings.push_back(finding(Feature::kSyscall, try_syscall()));
  if (const std::string missing = missing_rights(); !missing.empty()) {
    findings.back().detail += (findings.back().detail.empty() ? "" : ", ") + ("without " + missing);
  }
  if (findings.back().state == State::kAvailable) {
    try_bpf(request.cgroup, findings);
  } else {
    for (const Feature feature : kWithSyscall) {
      findings.push_back({feature, State::kNotTried, "the bpf system call is refused"});
    }
  }
  findings.push_back(try_pinning(request.pin_directory));
  const Result<std::uint64_t> cookie = netns_cookie();
  findings.push_back(
      finding(Feature::kNetnsCookie, cookie ? Status{} : Status(fail(cookie.error()))));
  return findings;
}

}  // namespace fairlead::bpf
