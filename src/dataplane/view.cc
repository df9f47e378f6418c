// SPDX-License-Identifier: Apache-2.0
#include "dataplane/view.h"

#include <algorithm>
#include <map>
#include <set>

namespace fairlead::dataplane {
namespace {

/// Differences of one object.
class Comparison {
 public:
  Comparison(std::vector<std::string>& out, std::string object)
      : out_(out), object_(std::move(object)) {}

  void say(const std::string& what) { out_.push_back(object_ + ": " + what); }
  void compare(const std::string& what, const std::string& held, const std::string& planned) {
    if (held != planned) {
      say(what + " is " + held + ", planned is " + planned);
    }
  }

 private:
  std::vector<std::string>& out_;
  std::string object_;
};

/// All classes' servers: a plane that cannot tell classes apart holds their union.
std::map<net::SocketAddress, plan::RealServer> servers_of(const plan::VirtualServer& server) {
  std::map<net::SocketAddress, plan::RealServer> servers;
  for (const plan::ClassPolicy& policy : server.classes) {
    for (const plan::RealServer& real : *policy.servers) {
      servers.emplace(real.socket(), real);
    }
  }
  return servers;
}

void compare(const plan::VirtualServer& planned, const ListedVirtualServer& held,
             std::vector<std::string>& out) {
  const std::string object = planned.key.text();
  Comparison server(out, object);
  server.compare("scheduler", held.scheduler, planned.scheduler.name);
  server.compare("persistence", std::to_string(held.persistence),
                 std::to_string(planned.persistence ? planned.persistence->count() : 0));
  std::map<net::SocketAddress, plan::RealServer> wanted = servers_of(planned);
  for (const ListedRealServer& real : held.real_servers) {
    Comparison of(out, object + " -> " + real.socket.text());
    const auto found = wanted.find(real.socket);
    if (found == wanted.end()) {
      if (real.state == "up") {
        of.say("is not planned");
      }
      continue;
    }
    if (real.state == "up" || found->second.weight != 0) {
      of.compare("weight", std::to_string(real.weight), std::to_string(found->second.weight));
    }
    of.compare("forwarding", real.method.text(), found->second.method.text());
    of.compare("thresholds", real.thresholds.text(), found->second.thresholds.text());
    wanted.erase(found);
  }
  for (const auto& [socket, real] : wanted) {
    out.push_back(object + " -> " + socket.text() + ": is missing");
  }
}

}  // namespace

std::vector<std::string> differences(std::span<const plan::VirtualServerPtr> planned,
                                     const Listing& held) {
  std::map<plan::VirtualServerKey, const ListedVirtualServer*> found;
  for (const ListedVirtualServer& server : held.virtual_servers) {
    found.emplace(server.key, &server);
  }
  std::vector<std::string> out;
  for (const plan::VirtualServerPtr& server : planned) {
    const auto at = found.find(server->key);
    if (at == found.end()) {
      out.push_back(server->key.text() + ": is missing");
      continue;
    }
    compare(*server, *at->second, out);
    found.erase(at);
  }
  for (const auto& [key, server] : found) {
    // One whose servers all leave is on its way out.
    if (server->real_servers.empty() ||
        std::ranges::any_of(server->real_servers,
                            [](const ListedRealServer& real) { return real.state == "up"; })) {
      out.push_back(key.text() + ": is not planned");
    }
  }
  return out;
}

}  // namespace fairlead::dataplane
