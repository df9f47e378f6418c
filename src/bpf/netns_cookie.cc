// SPDX-License-Identifier: Apache-2.0
#include "bpf/netns_cookie.h"

#include <arpa/inet.h>
#include <array>
#include <bpf/bpf.h>
#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include "base/unique_fd.h"
#include "bpf/attach.h"
#include "bpf/instruction.h"
#include "bpf/options.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace fairlead::bpf {
namespace {

/// Of this process, in the cgroup2 tree.
Result<std::string> own_cgroup() {
  const Result<std::string> mount = cgroup_mount();
  if (!mount) {
    return fail(mount.error());
  }
  std::ifstream lines("/proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("0::/")) {
      return *mount + line.substr(3);
    }
  }
  return fail(ErrorKind::kNotFound, "the process is in no cgroup2");
}

/// At connect(): notes the namespace's cookie by the socket's, for other processes of the cgroup
/// connect meanwhile, too.
Result<UniqueFd> load_recorder(int map) {
  constexpr int kNamespace = -8;
  constexpr int kSocket = -16;
  const auto move = [](int to, int from) {
    return instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
  };
  const auto set = [](int to, int value) {
    return instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
  };
  const auto add = [](int to, int value) {
    return instruction(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, value);
  };
  const auto call = [](int helper) { return instruction(BPF_JMP | BPF_CALL, 0, 0, 0, helper); };
  const auto store = [](int at) {
    return instruction(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_0, at, 0);
  };
  const std::array code = {
      move(BPF_REG_6, BPF_REG_1),
      call(BPF_FUNC_get_netns_cookie),
      store(kNamespace),
      move(BPF_REG_1, BPF_REG_6),
      call(BPF_FUNC_get_socket_cookie),
      store(kSocket),
      instruction(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map),
      instruction(0, 0, 0, 0, 0),
      move(BPF_REG_2, BPF_REG_10),
      add(BPF_REG_2, kSocket),
      move(BPF_REG_3, BPF_REG_10),
      add(BPF_REG_3, kNamespace),
      set(BPF_REG_4, BPF_ANY),
      call(BPF_FUNC_map_update_elem),
      set(BPF_REG_0, 1),
      instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  auto opts = options<bpf_prog_load_opts>();
  opts.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
  UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "fl_cookie", "Dual BSD/GPL",
                                 code.data(), code.size(), &opts));
  return program ? Result<UniqueFd>(std::move(program)) : fail_errno(errno, "load a program");
}

Result<std::uint64_t> cookie_by_program() {
  const Result<std::string> path = own_cgroup();
  if (!path) {
    return fail(path.error());
  }
  const UniqueFd cgroup(::open(path->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) {
    return fail_errno(errno, "cgroup " + *path);
  }
  const UniqueFd map(bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "fl_cookie", sizeof(std::uint64_t),
                                    sizeof(std::uint64_t), 1024, nullptr));
  if (!map) {
    return fail_errno(errno, "make a map");
  }
  const Result<UniqueFd> program = load_recorder(map.get());
  if (!program) {
    return fail(program.error());
  }
  const UniqueFd link(
      bpf_link_create(program->get(), cgroup.get(), BPF_CGROUP_INET4_CONNECT, nullptr));
  if (!link) {
    return fail_errno(errno, "attach to cgroup " + *path);
  }
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::uint64_t key = 0;
  socklen_t size = sizeof(key);
  if (!socket || ::getsockopt(socket.get(), SOL_SOCKET, SO_COOKIE, &key, &size) != 0) {
    return fail_errno(errno, "make a socket");
  }
  sockaddr_in anywhere{};
  anywhere.sin_family = AF_INET;
  anywhere.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  anywhere.sin_port = htons(9);
  // Whether there is a way does not matter: the program comes first. Nothing is sent.
  [[maybe_unused]] const int connected =
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&anywhere), sizeof(anywhere));
  std::uint64_t cookie = 0;
  if (bpf_map_lookup_elem(map.get(), &key, &cookie) != 0) {
    return fail(ErrorKind::kUnavailable,
                "a program on cgroup " + *path + " sees no socket of ours");
  }
  return cookie;
}

}  // namespace

Result<std::uint64_t> netns_cookie() {
  constexpr const char* kWhat = "cookie of the network namespace";
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) {
    return fail_errno(errno, kWhat);
  }
  std::uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) == 0) {
    return cookie;
  }
  if (errno != ENOPROTOOPT) {
    return fail_errno(errno, kWhat);
  }
  Result<std::uint64_t> learnt = cookie_by_program();
  return learnt ? learnt : fail(learnt.error().in(kWhat));
}

}  // namespace fairlead::bpf
