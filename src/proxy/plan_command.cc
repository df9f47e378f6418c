// SPDX-License-Identifier: Apache-2.0
#include "proxy/plan_command.h"

#include <iostream>
#include <string>
#include <utility>

#include "manifest/manifest_source.h"
#include "plan/planner.h"
#include "plan/print.h"
#include "proxy/settings.h"
#include "proxy/source.h"
#include "store/store.h"

namespace fairlead::proxy {

int print_plan(const config::PlanCommand& command) {
  auto options = model_options(command.config);
  if (!options) {
    std::cerr << "Error: " << options.error().text() << '\n';
    return 1;
  }
  manifest::Loaded loaded = manifest::load_once(manifest_options(command.config));
  for (const manifest::Problem& error : loaded.errors) {
    std::cerr << error.text() << '\n';
  }

  store::Store store(command.config.node_name);
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
  } else {
    std::cerr << "note: no Node object named " << command.config.node_name
              << " in the manifests: its addresses are unknown, so this plan has no node ports\n";
  }
  facts.name = command.config.node_name;
  facts.interface_addresses = facts.node_ips;

  plan::Planner planner(store, std::move(*options));
  (void)planner.set_node(std::move(facts));    // the empty plan's change is empty
  (void)planner.update(store.service_keys());  // `full` gives all of it
  const plan::Delta whole = planner.full();
  std::string text;
  if (command.output == "json") {
    text = plan::print_json(whole.put, planner.problems());
  } else if (command.output == "ipvsadm") {
    text = plan::print_ipvsadm(whole.put);
  } else {
    text = plan::print_text(whole.put, planner.problems());
  }
  std::cout << text << std::flush;
  return loaded.errors.empty() ? 0 : 1;
}

}  // namespace fairlead::proxy
