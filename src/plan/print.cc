// SPDX-License-Identifier: Apache-2.0
#include "plan/print.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "model/annotations.h"

namespace fairlead::plan {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::pair<ClientClass, std::string_view>, kClientClasses> kClassNames = {
    {{ClientClass::kExternal, "external"},
     {ClientClass::kPod, "pod"},
     {ClientClass::kNode, "node"}}};

std::string_view text(EmptyVerdict verdict) {
  switch (verdict) {
    case EmptyVerdict::kReject:
      return "reject";
    case EmptyVerdict::kDrop:
      return "drop";
  }
  return "?";
}

/// In the order of ipvsadm, but for its wrap-around: it subtracts IPv4 addresses in 32 bits, so
/// that 203.0.113.1 comes before 10.96.0.1. Compare with it line by line only after sorting both.
std::vector<VirtualServerPtr> sorted(std::span<const VirtualServerPtr> servers) {
  std::vector<VirtualServerPtr> out(servers.begin(), servers.end());
  std::ranges::sort(out, {}, [](const VirtualServerPtr& server) {
    const VirtualServerKey& key = server->key;
    return std::tuple(key.mark, key.address.family(), key.protocol, key.address, key.port);
  });
  return out;
}

/// The set a data plane takes that has only one for all clients: of a ClusterIP those inside the
/// cluster, of the others those outside.
const ClassPolicy& main_policy(const VirtualServer& server) {
  return server.policy(server.kind == AddressKind::kClusterIp ? ClientClass::kPod
                                                              : ClientClass::kExternal);
}

bool classes_share_servers(const VirtualServer& server) {
  return std::ranges::all_of(server.classes, [&](const ClassPolicy& policy) {
    return policy.servers == server.classes.front().servers ||
           *policy.servers == *server.classes.front().servers;
  });
}

std::string options_text(const VirtualServer& server) {
  std::string out;
  const auto add = [&](const std::string& option) { out += (out.empty() ? "" : ", ") + option; };
  if (server.persistence) {
    add("persistent " + std::to_string(server.persistence->count()) + "s" +
        (server.persistence_prefix ? " by /" + std::to_string(*server.persistence_prefix) : ""));
  }
  if (server.one_packet) {
    add("one-packet");
  }
  if (server.drain_timeout) {
    add("drain " + std::to_string(server.drain_timeout->count()) + "s");
  }
  std::string masqueraded;
  for (const auto& [client, name] : kClassNames) {
    if (server.policy(client).masquerade) {
      masqueraded += (masqueraded.empty() ? "" : "+") + std::string(name);
    }
  }
  if (!masqueraded.empty()) {
    add("masquerade " + masqueraded);
  }
  return out;
}

std::string scheduler_text(const Scheduler& scheduler) {
  const std::string flags = model::scheduler_flags_text(scheduler);
  return flags.empty() ? scheduler.name : scheduler.name + "(" + flags + ")";
}

void append_servers(std::string& out, const std::vector<RealServer>& servers) {
  for (const RealServer& server : servers) {
    out += "  -> " + server.socket().text() + " weight " + std::to_string(server.weight);
    if (server.method.forwarding != Forwarding::kMasquerade) {
      out += " " + server.method.text();
    }
    if (server.thresholds.upper != 0) {
      out += " thresholds " + server.thresholds.text();
    }
    if (server.is_local) {
      out += " local";
    }
    out += "\n";
  }
}

/// Pads all columns but the last to their widest cell.
std::string table_row(std::span<const std::string> cells, std::span<const std::size_t> widths) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    out += cells[i];
    if (i + 1 < cells.size()) {
      out.append(widths[i] - cells[i].size() + 2, ' ');
    }
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out + "\n";
}

Json servers_json(const std::vector<RealServer>& servers) {
  Json out = Json::array();
  for (const RealServer& server : servers) {
    out.push_back(Json{{"address", server.address.text()},
                       {"port", net::number(server.port)},
                       {"forwarding", server.method.text()},
                       {"weight", server.weight},
                       {"upperThreshold", server.thresholds.upper},
                       {"lowerThreshold", server.thresholds.lower},
                       {"local", server.is_local}});
  }
  return out;
}

Json policy_json(const ClassPolicy& policy, bool with_servers) {
  Json sources = Json::array();
  for (const net::IpPrefix& source : policy.allowed_sources) {
    sources.push_back(source.text());
  }
  Json out{{"masquerade", policy.masquerade},
           {"allowedSources", std::move(sources)},
           {"ifEmpty", text(policy.if_empty)}};
  if (with_servers) {
    out["realServers"] = servers_json(*policy.servers);
  }
  return out;
}

Json server_json(const VirtualServer& server) {
  const std::string flags = model::scheduler_flags_text(server.scheduler);
  Json flag_names = Json::array();
  if (!flags.empty()) {
    for (const std::string_view flag : split(flags, ',')) {
      flag_names.push_back(flag);
    }
  }
  Json hairpin = Json::array();
  for (const net::SocketAddress& socket : *server.hairpin) {
    hairpin.push_back(socket.text());
  }
  const bool shared = classes_share_servers(server);
  Json classes = Json::object();
  for (const auto& [client, name] : kClassNames) {
    classes[std::string(name)] = policy_json(server.policy(client), !shared);
  }
  const auto seconds = [](const std::optional<std::chrono::seconds>& value) {
    return value ? Json(value->count()) : Json(nullptr);
  };
  Json out{{"address", server.key.address.text()},
           {"port", net::number(server.key.port)},
           {"protocol", net::text(server.key.protocol)},
           {"firewallMark", server.key.mark == 0 ? Json(nullptr) : Json(server.key.mark)},
           {"kind", text(server.kind)},
           {"owner", server.owner},
           {"scheduler", server.scheduler.name},
           {"schedulerFlags", std::move(flag_names)},
           {"persistenceSeconds", seconds(server.persistence)},
           {"persistencePrefix",
            server.persistence_prefix ? Json(*server.persistence_prefix) : Json(nullptr)},
           {"onePacket", server.one_packet},
           {"drainSeconds", seconds(server.drain_timeout)},
           {"onNodeInterface", server.on_node_interface},
           {"clients", std::move(classes)},
           {"hairpin", std::move(hairpin)}};
  if (shared) {
    out["realServers"] = servers_json(*server.classes.front().servers);
  }
  return out;
}

std::string ipvsadm_id(const VirtualServerKey& key) {
  if (key.mark != 0) {
    return "-f " + std::to_string(key.mark) + (key.address.is_v4() ? "" : " -6");
  }
  std::string socket = net::SocketAddress{key.address, key.port}.text();
  switch (key.protocol) {
    case net::Protocol::kTcp:
      return "-t " + socket;
    case net::Protocol::kUdp:
      return "-u " + socket;
    case net::Protocol::kSctp:
      return "--sctp-service " + socket;
  }
  return socket;
}

/// For IPv4 a mask, for IPv6 a length.
std::string ipvsadm_mask(net::Family family, std::uint8_t prefix) {
  if (family == net::Family::kIpv6) {
    return std::to_string(prefix);
  }
  std::array<std::uint8_t, 4> mask{};
  for (std::size_t bit = 0; bit < prefix; ++bit) {
    mask.at(bit / 8) |= static_cast<std::uint8_t>(0x80U >> (bit % 8));
  }
  return net::IpAddress::from_bytes(mask).text();
}

/// `ipvsadm -S` leaves them out, yet `ipvsadm -R` takes them.
void append_thresholds(std::string& out, const Thresholds& thresholds) {
  if (thresholds.upper != 0) {
    out.append(" -x ").append(std::to_string(thresholds.upper));
  }
  if (thresholds.lower != 0) {
    out.append(" -y ").append(std::to_string(thresholds.lower));
  }
}

/// The forwarding option, and what follows the weight.
std::pair<std::string_view, std::string> ipvsadm_forwarding(const ForwardingMethod& method) {
  switch (method.forwarding) {
    case Forwarding::kMasquerade:
    case Forwarding::kFullNat:  // the kernel has none; masquerading comes nearest
      return {" -m", ""};
    case Forwarding::kDirectRouting:
      return {" -g", ""};
    case Forwarding::kTunnel:
      break;
  }
  switch (method.tunnel) {
    case TunnelType::kIpip:
      return {" -i", " --tun-type ipip"};
    case TunnelType::kGue:
      return {" -i", " --tun-type gue --tun-port " +
                         std::to_string(net::number(method.tunnel_port)) + " --tun-nocsum"};
    case TunnelType::kGre:
      return {" -i", " --tun-type gre --tun-nocsum"};
  }
  return {" -i", ""};
}

}  // namespace

std::string print_text(std::span<const VirtualServerPtr> servers,
                       std::span<const model::Problem> problems) {
  const std::vector<VirtualServerPtr> rows = sorted(servers);
  std::vector<std::array<std::string, 5>> cells;
  cells.push_back({"VIRTUAL SERVER", "KIND", "SERVICE PORT", "SCHEDULER", "OPTIONS"});
  for (const VirtualServerPtr& server : rows) {
    cells.push_back({server->key.text(), std::string(text(server->kind)), server->owner,
                     scheduler_text(server->scheduler), options_text(*server)});
  }
  std::array<std::size_t, 5> widths{};
  for (const auto& row : cells) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string out = table_row(cells.front(), widths);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    out += table_row(cells[i + 1], widths);
    if (classes_share_servers(*rows[i])) {
      append_servers(out, *rows[i]->classes.front().servers);
    } else {
      for (const auto& [client, name] : kClassNames) {
        out += " from " + std::string(name) + ":\n";
        append_servers(out, *rows[i]->policy(client).servers);
      }
    }
  }
  if (!problems.empty()) {
    out += "\nPROBLEMS\n";
    for (const model::Problem& problem : problems) {
      out += problem.text() + "\n";
    }
  }
  return out;
}

std::string print_json(std::span<const VirtualServerPtr> servers,
                       std::span<const model::Problem> problems) {
  Json all = Json::array();
  for (const VirtualServerPtr& server : sorted(servers)) {
    all.push_back(server_json(*server));
  }
  Json wrong = Json::array();
  for (const model::Problem& problem : problems) {
    wrong.push_back(
        Json{{"object", problem.object}, {"field", problem.field}, {"what", problem.what}});
  }
  // Annotations may hold any bytes; a text that is not UTF-8 must not become an exception.
  return Json{{"virtualServers", std::move(all)}, {"problems", std::move(wrong)}}.dump(
             2, ' ', false, Json::error_handler_t::replace) +
         "\n";
}

std::string print_ipvsadm(std::span<const VirtualServerPtr> servers) {
  std::string out;
  for (const VirtualServerPtr& server : sorted(servers)) {
    const std::string id = ipvsadm_id(server->key);
    out += "-A " + id + " -s " + server->scheduler.name;
    if (const auto persistence = server->persistence) {
      out += " -p " + std::to_string(persistence->count());
      if (server->persistence_prefix) {
        out += " -M " + ipvsadm_mask(server->key.address.family(), *server->persistence_prefix);
      }
    }
    if (server->one_packet) {
      out += " -o";
    }
    if (server->scheduler.flags != 0) {
      // For sh and mh it has no name for the third flag, but the option is there all the same.
      Scheduler named = server->scheduler;
      if (named.name == "sh" || named.name == "mh") {
        named.flags &= ~0x20U;
      }
      out += " -b " + model::scheduler_flags_text(named);
    }
    out += "\n";
    for (const RealServer& real : *main_policy(*server).servers) {
      const auto& [option, tunnel] = ipvsadm_forwarding(real.method);
      out.append("-a ").append(id).append(" -r ").append(real.socket().text()).append(option);
      out.append(" -w ").append(std::to_string(real.weight));
      append_thresholds(out, real.thresholds);
      out.append(tunnel).append("\n");
    }
  }
  return out;
}

}  // namespace fairlead::plan
