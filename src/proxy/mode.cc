// SPDX-License-Identifier: Apache-2.0
#include "proxy/mode.h"

#include <filesystem>
#include <iostream>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "bpf/attach.h"
#include "bpf/probe.h"
#include "dataplane/ipvs/plane.h"

namespace fairlead::proxy {
namespace {

std::vector<bpf::Finding> findings(const std::string& pin_directory, const std::string& cgroup) {
  std::string folder = cgroup;
  if (folder.empty()) {
    folder = bpf::cgroup_mount().value_or(std::string());
  }
  return bpf::probe({pin_directory, folder});
}

Status ipvs_status() {
  const auto kernel = dataplane::ipvs::open_kernel();
  return kernel ? Status{} : fail(kernel.error());
}

nlohmann::ordered_json json_of(const Status& status) {
  return {{"works", status.has_value()}, {"reason", status ? "" : status.error().text()}};
}

}  // namespace

Result<Mode> choose_mode(const std::string& asked, const Support& support) {
  if (!asked.empty()) {
    return Mode{asked, "--proxy-mode asks for it"};
  }
  const Status ebpf = support.ebpf();
  if (ebpf) {
    return Mode{std::string(kEbpf), "the kernel has all that it needs"};
  }
  const Status ipvs = support.ipvs();
  if (ipvs) {
    return Mode{std::string(kIpvs), ebpf.error().text()};
  }
  return fail(ErrorKind::kUnavailable,
              ebpf.error().text() + "; nor can the ipvs mode: " + ipvs.error().text());
}

Support kernel_support(const config::Config& config) {
  return {.ebpf =
              [config] {
                return bpf::can_serve_unasked(findings(config.ebpf_pin_dir, config.ebpf_cgroup),
                                              config.ebpf_sockets != config::SocketScope::kOff);
              },
          .ipvs = ipvs_status};
}

Status clear_way_for_ipvs(const std::string& pin_directory) {
  if (std::error_code error; !std::filesystem::exists(pin_directory, error)) {
    return {};
  }
  log::info("taking out what the ebpf mode has left", {{"pins", pin_directory}});
  if (const Status status = bpf::remove_all(pin_directory); !status) {
    return fail(
        status.error().in("what the ebpf mode has left would stay in front of IPVS; stop its "
                          "daemon and run `fairlead cleanup`"));
  }
  return {};
}

int examine(const config::StateCommand& command) {
  const std::vector<bpf::Finding> found = findings(command.pin_dir, command.cgroup);
  const Status ebpf = bpf::can_serve(found);
  const Status ipvs = ipvs_status();
  const Result<Mode> mode =
      choose_mode({}, {.ebpf = [&] { return bpf::can_serve_unasked(found, true); },
                       .ipvs = [&] { return Status(ipvs); }});
  if (command.output == "json") {
    nlohmann::ordered_json features = nlohmann::ordered_json::array();
    for (const bpf::Finding& finding : found) {
      features.push_back({{"feature", bpf::text(finding.feature)},
                          {"state", bpf::text(finding.state)},
                          {"detail", finding.detail}});
    }
    nlohmann::ordered_json page = {{"mode", mode ? mode->name : ""},
                                   {"reason", mode ? mode->reason : mode.error().text()},
                                   {"ebpf", json_of(ebpf)},
                                   {"ipvs", json_of(ipvs)}};
    page["ebpf"]["features"] = std::move(features);
    std::cout << page.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else {
    std::cout << "ebpf: " << (ebpf ? "works" : ebpf.error().text()) << "\n\n"
              << bpf::format(found) << '\n'
              << "ipvs: " << (ipvs ? "works" : ipvs.error().text()) << "\n\n";
    if (mode) {
      std::cout << "Without --proxy-mode, " << mode->name << " is chosen: " << mode->reason << '\n';
    } else {
      std::cout << "No mode can work here.\n";
    }
  }
  return mode ? 0 : 1;
}

}  // namespace fairlead::proxy
