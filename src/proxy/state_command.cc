// SPDX-License-Identifier: Apache-2.0
#include "proxy/state_command.h"

#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "bpf/attach.h"
#include "dataplane/ebpf/listing.h"
#include "dataplane/ipvs/view.h"

namespace fairlead::proxy {
namespace {

using dataplane::ListedConnection;
using dataplane::Listing;
using nlohmann::ordered_json;

ordered_json json_of(const dataplane::Totals& totals) {
  return {{"connections", totals.connections},
          {"in_packets", totals.in_packets},
          {"out_packets", totals.out_packets},
          {"in_bytes", totals.in_bytes},
          {"out_bytes", totals.out_bytes}};
}

ordered_json json_of(const Listing& listing, dataplane::View& view) {
  ordered_json servers = ordered_json::array();
  for (const auto& server : listing.virtual_servers) {
    ordered_json reals = ordered_json::array();
    for (const auto& real : server.real_servers) {
      ordered_json each = {{"address", real.socket.address.text()},
                           {"port", net::number(real.socket.port)},
                           {"forwarding", real.method.text()},
                           {"weight", real.weight},
                           {"upper_threshold", real.thresholds.upper},
                           {"lower_threshold", real.thresholds.lower},
                           {"overloaded", real.is_overloaded},
                           {"state", real.state},
                           {"active", real.active},
                           {"inactive", real.inactive},
                           {"persistent", real.persistent}};
      each.update(json_of(real.totals));
      reals.push_back(std::move(each));
    }
    ordered_json each = {{"address", server.key.address.text()},
                         {"port", net::number(server.key.port)},
                         {"protocol", net::text(server.key.protocol)},
                         {"firewall_mark", server.key.mark},
                         {"scheduler", server.scheduler},
                         {"persistence", server.persistence},
                         {"persistence_prefix", server.persistence_prefix},
                         {"refused", server.refused}};
    each.update(json_of(server.totals));
    each["real_servers"] = std::move(reals);
    servers.push_back(std::move(each));
  }
  ordered_json addresses = ordered_json::array();
  for (const net::IpAddress& address : listing.addresses) {
    addresses.push_back(address.text());
  }
  ordered_json counters = ordered_json::object();
  for (const auto& [name, count] : view.events()) {
    counters[name] = count;
  }
  return {{"virtual_servers", servers}, {"addresses", addresses}, {"events", counters}};
}

ordered_json json_of(const std::vector<ListedConnection>& connections) {
  ordered_json rows = ordered_json::array();
  for (const ListedConnection& each : connections) {
    rows.push_back({{"protocol", net::text(each.protocol)},
                    {"client", each.client.address.text()},
                    {"client_port", net::number(each.client.port)},
                    {"virtual", each.virtual_server.address.text()},
                    {"virtual_port", net::number(each.virtual_server.port)},
                    {"server", each.server.address.text()},
                    {"server_port", net::number(each.server.port)},
                    {"state", each.state},
                    {"expires", each.expires}});
  }
  return {{"connections", rows}};
}

void print(const Listing& listing) {
  for (const auto& server : listing.virtual_servers) {
    std::cout << server.key.text() << ' ' << server.scheduler;
    if (server.persistence != 0) {
      std::cout << " persistent " << server.persistence << " by /"
                << unsigned{server.persistence_prefix};
    }
    std::cout << '\n';
    for (const auto& real : server.real_servers) {
      std::cout << "  -> " << real.socket.text() << ' ' << real.method.text() << " weight "
                << real.weight << ' ' << real.state << " active " << real.active << " inactive "
                << real.inactive;
      if (real.thresholds.upper != 0) {
        std::cout << " thresholds " << real.thresholds.text()
                  << (real.is_overloaded ? " overloaded" : "");
      }
      std::cout << '\n';
    }
  }
}

void print(const std::vector<ListedConnection>& connections) {
  for (const ListedConnection& each : connections) {
    std::cout << net::text(each.protocol) << ' ' << each.client.text() << ' '
              << each.virtual_server.text() << ' ' << each.server.text() << ' ' << each.state << ' '
              << each.expires << '\n';
  }
}

int complain(const Error& error) {
  std::cerr << "Error: " << error.text() << '\n';
  return 1;
}

}  // namespace

int print_state(const config::StateCommand& command) {
  const auto view = open_view(command.mode, command.pin_dir);
  if (!view) {
    return complain(view.error());
  }
  const bool as_json = command.output == "json";
  if (command.what == "connections") {
    const auto connections = (*view)->connections();
    if (!connections) {
      return complain(connections.error());
    }
    if (as_json) {
      std::cout << json_of(*connections).dump(2) << '\n';
    } else {
      print(*connections);
    }
    return 0;
  }
  const auto listing = (*view)->table();
  if (!listing) {
    return complain(listing.error());
  }
  if (as_json) {
    std::cout << json_of(*listing, **view).dump(2) << '\n';
  } else {
    print(*listing);
  }
  return 0;
}

Result<std::unique_ptr<dataplane::View>> open_view(const std::string& mode,
                                                   const std::string& pin_directory) {
  if (mode == "ipvs") {
    return dataplane::ipvs::open_view();
  }
  auto view = dataplane::ebpf::open_view(pin_directory);
  const bool may_be_ipvs = mode.empty() && !view && view.error().kind() == ErrorKind::kNotFound;
  if (may_be_ipvs) {
    if (auto other = dataplane::ipvs::open_view()) {
      return other;
    }
  }
  return view;
}

int clean_up(const config::StateCommand& command) {
  const Status status = bpf::remove_all(command.pin_dir);
  return status ? 0 : complain(status.error());
}

}  // namespace fairlead::proxy
