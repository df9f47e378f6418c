// SPDX-License-Identifier: Apache-2.0
#include "proxy/plan_command.h"

#include <cstdio>
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
    std::fprintf(stderr, "Error: %s\n", options.error().text().c_str());
    return 1;
  }
  manifest::Loaded loaded = manifest::load_once(manifest_options(command.config));
  for (const manifest::Problem& error : loaded.errors) {
    std::fprintf(stderr, "%s\n", error.text().c_str());
  }

  store::Store store(command.config.node_name);
  for (api::Service& service : loaded.services) {
    store.put(std::move(service));
  }
  for (api::EndpointSlice& slice : loaded.slices) {
    store.put(std::move(slice));
  }
  for (api::Node& node : loaded.nodes) {
    store.put(std::move(node));
  }
  model::NodeFacts facts;
  if (store.node() != nullptr) {
    facts = model::node_facts(*store.node());
  } else {
    std::fprintf(stderr,
                 "note: no Node object named %s in the manifests: its addresses are unknown, so "
                 "there are no node ports in this plan\n",
                 command.config.node_name.c_str());
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
  std::fwrite(text.data(), 1, text.size(), stdout);
  return loaded.errors.empty() ? 0 : 1;
}

}  // namespace fairlead::proxy
