// SPDX-License-Identifier: Apache-2.0
#include "ipvs/netlink_client.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <linux/netlink.h>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "ipvs/codec.h"
#include "netlink/generic.h"

namespace fairlead::ipvs {
namespace {

constexpr int kDumpAttempts = 3;
// Ops encoded at a time: bounds the memory of a large apply, and is a multiple of one send.
constexpr std::size_t kEncodeAtOnce = 4096;

// Runs `modprobe ip_vs`. The kernel itself loads the module when asked for the family, but only if
// its own helper is set up; in a container this one may work where that does not. No result: the
// family being there afterwards is what counts.
void load_module() {
  constexpr const char* kProgram = "/sbin/modprobe";
  if (::access(kProgram, X_OK) != 0) {
    return;
  }
  // posix_spawn wants mutable strings.
  std::string program = kProgram;
  std::string quiet = "-q";
  std::string module = "ip_vs";
  const std::array<char*, 4> arguments = {program.data(), quiet.data(), module.data(), nullptr};
  std::string path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  const std::array<char*, 2> environment = {path.data(), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, kProgram, nullptr, nullptr, arguments.data(), environment.data()) !=
      0) {
    return;
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (::waitpid(child, nullptr, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= deadline) {
      ::kill(child, SIGKILL);
      // A loader stuck in the kernel cannot be waited for without hanging with it.
      static_cast<void>(::waitpid(child, nullptr, WNOHANG));
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

bool has_tunnel(const ObservedVirtualServer& server) {
  return std::ranges::any_of(server.real_servers, [](const ObservedRealServer& real) {
    return real.server.method == ForwardMethod::kTunnel;
  });
}

}  // namespace

NetlinkClient::NetlinkClient(netlink::Socket socket, std::uint16_t family, UniqueFd proc)
    : socket_(std::move(socket)), family_(family), proc_(std::move(proc)) {}

Result<std::unique_ptr<NetlinkClient>> NetlinkClient::open(netlink::SocketOptions options) {
  constexpr std::string_view kContext = "IPVS";
  Result<netlink::Socket> socket = netlink::Socket::open(NETLINK_GENERIC, options);
  if (!socket) {
    return fail(std::move(socket.error()).in(kContext));
  }
  constexpr std::string_view kFamily = "IPVS";
  Result<std::uint16_t> family = netlink::resolve_family(*socket, kFamily);
  if (!family && family.error().kind() == ErrorKind::kUnavailable) {
    load_module();
    family = netlink::resolve_family(*socket, kFamily);
  }
  if (!family) {
    if (family.error().kind() == ErrorKind::kUnavailable) {
      return tl::unexpected(Error(ErrorKind::kUnavailable,
                                  "the kernel has no IPVS: module ip_vs is not loaded and could "
                                  "not be (try: modprobe ip_vs)",
                                  ENOENT));
    }
    return fail(std::move(family.error()).in(kContext));
  }
  // Not there in a stripped container; then the slow way is taken.
  UniqueFd proc(::open("/proc/thread-self/net/ip_vs", O_RDONLY | O_CLOEXEC));
  std::unique_ptr<NetlinkClient> client(
      new NetlinkClient(std::move(*socket), *family, std::move(proc)));
  // Everybody may resolve the family; whether we may use it shows at the first command.
  const Result<Info> info = client->info();
  if (!info) {
    if (info.error().kind() == ErrorKind::kPermission) {
      return tl::unexpected(Error(
          ErrorKind::kPermission,
          "IPVS: not permitted; CAP_NET_ADMIN in the initial user namespace is needed (EPERM)",
          info.error().errno_value()));
    }
    return fail(info.error());
  }
  return client;
}

Result<Info> NetlinkClient::info() {
  std::optional<Info> info;
  const Status status = socket_.get(encode_get_info(family_), [&](const netlink::Message& message) {
    info = decode_info(netlink::generic_attributes(message));
  });
  if (!status) {
    return fail(status.error().in("read IPVS version"));
  }
  if (!info) {
    return fail(ErrorKind::kSystem, "read IPVS version: the kernel's answer is malformed");
  }
  return *info;
}

Result<Timeouts> NetlinkClient::timeouts() {
  Timeouts timeouts;
  const Status status =
      socket_.get(encode_get_config(family_), [&](const netlink::Message& message) {
        timeouts = decode_timeouts(netlink::generic_attributes(message));
      });
  if (!status) {
    return fail(status.error().in("read IPVS timeouts"));
  }
  return timeouts;
}

Status NetlinkClient::set_timeouts(const Timeouts& timeouts) {
  if (timeouts == Timeouts{}) {
    return {};
  }
  const Status status = socket_.execute_one(encode_set_config(family_, timeouts));
  if (!status) {
    return fail(status.error().in("set IPVS timeouts"));
  }
  return {};
}

Result<std::vector<ObservedVirtualServer>> NetlinkClient::virtual_servers() {
  std::vector<ObservedVirtualServer> servers;
  const Status status = socket_.dump(
      encode_get_virtual_servers(family_),
      [&](const netlink::Message& message) {
        auto server = decode_virtual_server(netlink::generic_attributes(message));
        if (server) {
          servers.push_back(
              {.server = std::move(*server),
               .real_servers = {},
               .stats = decode_virtual_server_stats(netlink::generic_attributes(message))});
        }
      },
      [&] { servers.clear(); });
  if (!status) {
    return fail(status.error().in("list virtual servers"));
  }
  return servers;
}

Result<std::vector<ObservedRealServer>> NetlinkClient::real_servers(const ServiceId& id) {
  std::vector<ObservedRealServer> servers;
  const Status status = socket_.dump(
      encode_get_real_servers(family_, id),
      [&](const netlink::Message& message) {
        auto server = decode_real_server(netlink::generic_attributes(message), id.address.family());
        if (server) {
          servers.push_back(*server);
        }
      },
      [&] { servers.clear(); });
  if (!status) {
    return fail(status.error().in("list real servers of " + id.text()));
  }
  return servers;
}

// nullopt if the text cannot be had or has another shape than ours: netlink tells it all then.
std::optional<NetlinkClient::RealServers> NetlinkClient::real_servers_from_proc() {
  if (!proc_ || ::lseek(proc_.get(), 0, SEEK_SET) != 0) {
    return std::nullopt;
  }
  RealServers all;
  ProcParser parser(
      [&](ProcEntry&& entry) { all.insert_or_assign(entry.id, std::move(entry.real_servers)); });
  std::vector<char> buffer(std::size_t{64} * 1024);
  for (;;) {
    const ssize_t size = ::read(proc_.get(), buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) {
      continue;
    }
    if (size < 0) {
      return std::nullopt;
    }
    if (size == 0) {
      break;
    }
    if (!parser.feed({buffer.data(), static_cast<std::size_t>(size)})) {
      return std::nullopt;
    }
  }
  return parser.finish() ? std::optional(std::move(all)) : std::nullopt;
}

Result<std::vector<ObservedVirtualServer>> NetlinkClient::dump() {
  for (int attempt = 1;; ++attempt) {
    Result<std::vector<ObservedVirtualServer>> servers = virtual_servers();
    if (!servers) {
      return servers;
    }
    std::optional<RealServers> from_proc = real_servers_from_proc();
    const bool by_netlink = !from_proc;
    if (by_netlink) {
      from_proc.emplace();
    }
    bool agree = true;
    std::vector<ObservedVirtualServer*> missing;
    for (ObservedVirtualServer& server : *servers) {
      const auto found = from_proc->find(server.server.id);
      if (found != from_proc->end()) {
        server.real_servers = std::move(found->second);
        from_proc->erase(found);  // what is left at the end, the netlink dump has not seen
        if (has_tunnel(server)) {
          missing.push_back(&server);  // /proc does not tell of which type it is
        }
      } else {
        missing.push_back(&server);
        agree = agree && (server.server.id.fwmark != 0 || by_netlink);
      }
    }
    agree = agree && from_proc->empty();
    if (!agree && attempt < kDumpAttempts) {
      continue;
    }
    for (ObservedVirtualServer* server : missing) {
      auto real = real_servers(server->server.id);
      if (!real) {
        return fail(real.error());
      }
      server->real_servers = std::move(*real);
    }
    return servers;
  }
}

Result<std::vector<ObservedVirtualServer>> NetlinkClient::dump_exactly() {
  Result<std::vector<ObservedVirtualServer>> servers = virtual_servers();
  if (!servers) {
    return servers;
  }
  for (ObservedVirtualServer& server : *servers) {
    auto real = real_servers(server.server.id);
    if (!real) {
      return fail(real.error());
    }
    server.real_servers = std::move(*real);
  }
  return servers;
}

Result<std::optional<ObservedVirtualServer>> NetlinkClient::get(const ServiceId& id) {
  std::optional<ObservedVirtualServer> found;
  const Status status =
      socket_.get(encode_get_virtual_server(family_, id), [&](const netlink::Message& message) {
        auto server = decode_virtual_server(netlink::generic_attributes(message));
        if (server) {
          found = ObservedVirtualServer{
              .server = std::move(*server),
              .real_servers = {},
              .stats = decode_virtual_server_stats(netlink::generic_attributes(message))};
        }
      });
  if (!status) {
    if (status.error().errno_value() == ESRCH) {
      return std::nullopt;
    }
    return fail(status.error().in("read virtual server " + id.text()));
  }
  if (!found) {
    return fail(ErrorKind::kSystem,
                "read virtual server " + id.text() + ": the kernel's answer is malformed");
  }
  auto real = real_servers(id);
  if (!real) {
    return fail(real.error());
  }
  found->real_servers = std::move(*real);
  return found;
}

std::vector<Status> NetlinkClient::apply(std::span<const Op> ops) {
  std::vector<Status> statuses;
  statuses.reserve(ops.size());
  bool silent = false;
  std::vector<netlink::Request> requests;
  while (statuses.size() < ops.size()) {
    const auto slice =
        ops.subspan(statuses.size(), std::min(kEncodeAtOnce, ops.size() - statuses.size()));
    if (silent) {
      const Error error(ErrorKind::kTimeout,
                        "not sent: the kernel did not answer earlier requests");
      for (const Op& op : slice) {
        statuses.emplace_back(fail(describe(op, error)));
      }
      continue;
    }
    requests.clear();
    for (const Op& op : slice) {
      requests.push_back(encode(family_, op));
    }
    std::vector<Status> results = socket_.execute(requests);
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!results[i]) {
        // Silence has no errno; an EAGAIN that the kernel answered has, and is just its op's.
        silent = silent || (results[i].error().kind() == ErrorKind::kTimeout &&
                            results[i].error().errno_value() == 0);
        results[i] = fail(describe(slice[i], results[i].error()));
      }
      statuses.push_back(std::move(results[i]));
    }
  }
  return statuses;
}

Result<std::unique_ptr<Client>> make_netlink_client() {
  Result<std::unique_ptr<NetlinkClient>> client = NetlinkClient::open();
  if (!client) {
    return fail(std::move(client.error()));
  }
  return std::unique_ptr<Client>(std::move(*client));
}

Result<std::vector<Connection>> read_connections() {
  const std::string path = "/proc/thread-self/net/ip_vs_conn";
  std::ifstream file(path);
  if (!file) {
    return fail_errno(errno, path);
  }
  std::vector<Connection> connections;
  for (std::string line; std::getline(file, line);) {
    if (auto connection = parse_connection(line)) {
      connections.push_back(std::move(*connection));
    }
  }
  return file.bad() ? fail(ErrorKind::kSystem, path + ": cannot be read")
                    : Result<std::vector<Connection>>(std::move(connections));
}

}  // namespace fairlead::ipvs
