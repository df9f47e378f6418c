// SPDX-License-Identifier: Apache-2.0
// The pure part of probe.h.
#include <algorithm>
#include <string_view>

#include "base/text.h"
#include "bpf/probe.h"

namespace fairlead::bpf {
namespace {

/// What is lost without it. Empty: the plane does not work without it.
std::string_view loss(Feature feature) {
  switch (feature) {
    case Feature::kSyscall:
    case Feature::kPrograms:
    case Feature::kArrayMmap:
    case Feature::kBatches:
    case Feature::kPinning:
      return {};
    case Feature::kFetchAdd:
      return "turns and changes of state take a lock";
    case Feature::kLoop:
      return "wrr and mh with fallback look at 512 servers that take no connections, then give up";
    case Feature::kReason:
      return "connect() to a service without endpoints fails with EPERM, not ECONNREFUSED";
    case Feature::kRouteMtu:
      return "clients are not told what fits through direct routing and tunnels";
    case Feature::kTcx:
      return "clsact filters serve instead, which whoever deletes the qdisc takes away";
    case Feature::kClsact:
      return "TCX links serve instead";
    case Feature::kSocketHooks:
      return "processes of the node reach no service";
    case Feature::kNetnsCookie:
      return "--ebpf-sockets node cannot work";
  }
  return {};
}

bool is_refused(std::span<const Finding> findings, Feature feature) {
  return std::ranges::any_of(findings, [&](const Finding& each) {
    return each.feature == feature && each.state == Finding::State::kRefused;
  });
}

}  // namespace

std::string_view text(Finding::State state) {
  switch (state) {
    case Finding::State::kAvailable:
      return "available";
    case Finding::State::kRefused:
      return "refused";
    case Finding::State::kNotTried:
      return "not tried";
  }
  return {};
}

std::string_view text(Feature feature) {
  switch (feature) {
    case Feature::kSyscall:
      return "bpf system call";
    case Feature::kPrograms:
      return "our programs";
    case Feature::kFetchAdd:
      return "atomic operations with a result";
    case Feature::kLoop:
      return "loops of programs";
    case Feature::kReason:
      return "reasons for refused connect()";
    case Feature::kRouteMtu:
      return "MTU in route lookups";
    case Feature::kArrayMmap:
      return "arrays in memory";
    case Feature::kBatches:
      return "map operations in batches";
    case Feature::kPinning:
      return "bpffs at the pin directory";
    case Feature::kTcx:
      return "TCX links";
    case Feature::kClsact:
      return "clsact filters";
    case Feature::kSocketHooks:
      return "socket hooks of cgroups";
    case Feature::kNetnsCookie:
      return "cookies of network namespaces";
  }
  return {};
}

std::string format(std::span<const Finding> findings) {
  constexpr std::size_t kStateWidth = 11;
  std::string out;
  for (const Finding& finding : findings) {
    std::string line(text(finding.state));
    line.resize(kStateWidth, ' ');
    line += text(finding.feature);
    if (!finding.detail.empty()) {
      line += ": " + finding.detail;
    }
    if (finding.state == Finding::State::kRefused) {
      const std::string_view lost = loss(finding.feature);
      line += "; " + std::string(lost.empty() ? "the ebpf mode needs it" : lost);
    }
    out += line + "\n";
  }
  return out;
}

Status can_serve(std::span<const Finding> findings) {
  std::vector<std::string> reasons;
  for (const Finding& finding : findings) {
    if (finding.state == Finding::State::kRefused && loss(finding.feature).empty()) {
      reasons.push_back(std::string(text(finding.feature)) + ": " + finding.detail);
    }
  }
  if (is_refused(findings, Feature::kTcx) && is_refused(findings, Feature::kClsact)) {
    reasons.emplace_back("neither TCX links nor clsact filters");
  }
  if (reasons.empty()) {
    return {};
  }
  return fail(ErrorKind::kUnavailable, "the ebpf mode cannot work here: " + join(reasons, "; "));
}

Status can_serve_unasked(std::span<const Finding> findings, bool translates) {
  Status works = can_serve(findings);
  if (!works || !translates) {
    return works;
  }
  for (const Feature feature : {Feature::kSocketHooks, Feature::kNetnsCookie}) {
    const auto found = std::ranges::find(findings, feature, &Finding::feature);
    if (found == findings.end() || found->state != Finding::State::kAvailable) {
      return fail(ErrorKind::kUnavailable,
                  "the ebpf mode would leave the node's own processes without services: " +
                      std::string(text(feature)) + ": " +
                      (found == findings.end() ? "not tried" : found->detail));
    }
  }
  return {};
}

}  // namespace fairlead::bpf
