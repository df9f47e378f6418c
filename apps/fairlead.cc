// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <filesystem>
#include <iostream>
#include <span>
#include <string>
#include <unistd.h>
#include <vector>

#include "config/config.h"
#include "proxy/mode.h"
#include "proxy/plan_command.h"
#include "proxy/proxy.h"
#include "proxy/state_command.h"
#include "version.h"

namespace {

constexpr const char* kUsage = R"(Fairlead, the service proxy of a Kubernetes node.

  fairlead run [FLAGS]    serve this node until stopped
  fairlead plan [FLAGS]   print what would be programmed; needs no privileges
  fairlead doctor         tell what this kernel has, and which data plane would serve
  fairlead get WHAT       print the data plane's table or connections
  fairlead diff [FLAGS]   print in what the kernel differs from the plan
  fairlead cleanup        take the ebpf data plane out of the kernel
  fairlead version        print the version

`fairlead COMMAND --help` lists a command's flags.
)";

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data())
                                                          : std::string();
}

int complain(const std::string& text) {
  std::cerr << "Error: " << text << '\n';
  return 1;
}

int print_version() {
  std::cout << "fairlead " << fairlead::kVersion << '\n';
  return 0;
}

int run(const std::string& program, const std::vector<std::string>& args) {
  auto parsed = fairlead::config::parse_flags(program, args, host_name());
  if (!parsed) {
    return complain(parsed.error().text());
  }
  if (!parsed->config) {
    std::cout << parsed->text;
    return parsed->exit_code;
  }
  return fairlead::proxy::run(std::move(*parsed->config));
}

int plan(fairlead::Result<fairlead::config::ParsedPlan> parsed,
         int (*act)(const fairlead::config::PlanCommand&), int mistake) {
  if (!parsed) {
    complain(parsed.error().text());
    return mistake;
  }
  if (!parsed->command) {
    std::cout << parsed->text;
    return parsed->exit_code;
  }
  return act(*parsed->command);
}

int state(fairlead::Result<fairlead::config::ParsedState> parsed,
          int (*act)(const fairlead::config::StateCommand&)) {
  if (!parsed) {
    return complain(parsed.error().text());
  }
  if (!parsed->command) {
    std::cout << parsed->text;
    return parsed->exit_code;
  }
  return act(*parsed->command);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (std::filesystem::path(argv[0]).filename() == "kube-proxy") {
    return run("kube-proxy", args);
  }
  const std::string command = args.empty() ? "" : args.front();
  if (!args.empty()) {
    args.erase(args.begin());
  }
  if (command == "run") {
    return run("fairlead run", args);
  }
  if (command == "plan") {
    return plan(fairlead::config::parse_plan_flags("fairlead plan", args, host_name()),
                fairlead::proxy::print_plan, 1);
  }
  if (command == "diff") {
    return plan(fairlead::config::parse_diff_flags(args, host_name()),
                fairlead::proxy::print_difference, 2);
  }
  if (command == "get") {
    return state(fairlead::config::parse_get_flags(args), fairlead::proxy::print_state);
  }
  if (command == "doctor") {
    return state(fairlead::config::parse_doctor_flags(args), fairlead::proxy::examine);
  }
  if (command == "cleanup") {
    return state(fairlead::config::parse_cleanup_flags(args), fairlead::proxy::clean_up);
  }
  if (command == "version" || command == "--version") {
    return print_version();
  }
  if (command == "help" || command == "--help" || command == "-h") {
    std::cout << kUsage;
    return 0;
  }
  std::cerr << kUsage;
  return complain(command.empty() ? "no command given" : "unknown command \"" + command + "\"");
}
