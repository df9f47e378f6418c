// SPDX-License-Identifier: Apache-2.0
#include "proxy/plan_command.h"

#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "manifest/manifest_source.h"
#include "plan/planner.h"
#include "plan/print.h"
#include "proxy/node_watch.h"
#include "proxy/settings.h"
#include "proxy/source.h"
#include "proxy/state_command.h"
#include "store/store.h"

namespace fairlead::proxy {

namespace {

struct Planned {
  plan::Delta whole;
  std::vector<model::Problem> problems;
  bool has_mistakes = false;  // in the manifests; they are on stderr
};

/// For the folder of manifests. Without `addresses`, those of the Node object stand for the node's.
Result<Planned> plan_for(const config::Config& config,
                         const std::optional<std::vector<net::IpAddress>>& addresses) {
  auto options = model_options(config);
  if (!options) {
    return fail(std::move(options.error()));
  }
  manifest::Loaded loaded = manifest::load_once(manifest_options(config));
  for (const manifest::Problem& error : loaded.errors) {
    std::cerr << error.text() << '\n';
  }

  store::Store store(config.node_name);
  for (auto& service : loaded.services) {
    store.put(std::move(service));
  }
  for (auto& slice : loaded.slices) {
    store.put(std::move(slice));
  }
  for (const auto& node : loaded.nodes) {
    store.put(*node);
  }
  model::NodeFacts facts;
  if (store.node() != nullptr) {
    facts = model::node_facts(*store.node());
  } else if (!addresses) {
    std::cerr << "note: no Node object named " << config.node_name
              << " in the manifests: its addresses are unknown, so this plan has no node ports\n";
  }
  facts.name = config.node_name;
  facts.interface_addresses = addresses.value_or(facts.node_ips);

  plan::Planner planner(store, std::move(*options));
  (void)planner.set_node(std::move(facts));    // the empty plan's change is empty
  (void)planner.update(store.service_keys());  // `full` gives all of it
  return Planned{planner.full(), planner.problems(), !loaded.errors.empty()};
}

}  // namespace

int print_plan(const config::PlanCommand& command) {
  const Result<Planned> planned = plan_for(command.config, std::nullopt);
  if (!planned) {
    std::cerr << "Error: " << planned.error().text() << '\n';
    return 1;
  }
  std::string text;
  if (command.output == "json") {
    text = plan::print_json(planned->whole.put, planned->problems);
  } else if (command.output == "ipvsadm") {
    text = plan::print_ipvsadm(planned->whole.put);
  } else {
    text = plan::print_text(planned->whole.put, planned->problems);
  }
  std::cout << text << std::flush;
  return planned->has_mistakes ? 1 : 0;
}

int print_difference(const config::PlanCommand& command) {
  constexpr int kNothingToCompare = 2;
  const auto complain = [](const Error& error) {
    std::cerr << "Error: " << error.text() << '\n';
    return kNothingToCompare;
  };
  const auto addresses = node_addresses();
  if (!addresses) {
    return complain(addresses.error());
  }
  const Result<Planned> planned = plan_for(command.config, *addresses);
  if (!planned) {
    return complain(planned.error());
  }
  const auto view = open_view(command.config.proxy_mode, command.config.ebpf_pin_dir);
  if (!view) {
    return complain(view.error());
  }
  const auto held = (*view)->table();
  if (!held) {
    return complain(held.error());
  }
  const std::vector<std::string> lines = dataplane::differences(planned->whole.put, *held);
  for (const std::string& line : lines) {
    std::cout << line << '\n';
  }
  if (planned->has_mistakes) {
    return kNothingToCompare;
  }
  return lines.empty() ? 0 : 1;
}

}  // namespace fairlead::proxy
