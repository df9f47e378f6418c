// SPDX-License-Identifier: Apache-2.0
// The rules beside kernel IPVS: kube-proxy's chains, jumps, comments and order, with one
// difference. kube-proxy leaves a rule out while its set is empty; here every rule is always there
// (a rule on an empty set matches nothing), so that the text never changes while services change
// and iptables-restore runs at start and after damage only. Facts: kube-proxy-ipvs.md section 5.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::dataplane::ipvs {

/// How traffic of this node's pods is told from other traffic.
struct BridgeInterface {
  std::string name;
  friend bool operator==(const BridgeInterface&, const BridgeInterface&) = default;
};
struct InterfacePrefix {
  std::string prefix;
  friend bool operator==(const InterfacePrefix&, const InterfacePrefix&) = default;
};
/// monostate: not known; then only traffic whose source is a ClusterIP is masqueraded. A prefix
/// must be of the configuration's family.
using LocalTraffic = std::variant<std::monostate, net::IpPrefix, BridgeInterface, InterfacePrefix>;

struct IptablesConfig {
  net::Family family = net::Family::kIpv4;
  int masquerade_bit = 14;  // 0..31
  bool masquerade_all = false;
  LocalTraffic local_traffic;
  /// MASQUERADE --random-fully; left out where the iptables program is too old for it.
  bool random_fully = true;
  /// Use the physdev match for external IPs; left out where the kernel lacks it.
  bool physdev = true;

  friend bool operator==(const IptablesConfig&, const IptablesConfig&) = default;
};

// --- Text (pure) ---------------------------------------------------------------------------------

enum class Table { kNat, kFilter };
[[nodiscard]] std::string_view text(Table table);  // "nat", "filter"

/// A rule in the options of the iptables command, without `-A CHAIN`.
struct Rule {
  std::string chain;
  std::string spec;
  friend bool operator==(const Rule&, const Rule&) = default;
};

/// Our chains of one table in order of creation.
[[nodiscard]] std::span<const std::string_view> chains(Table table);
[[nodiscard]] bool is_ours(std::string_view chain, Table table);
/// Jumps from built-in chains to ours, in the order in which kube-proxy inserts them on top.
[[nodiscard]] std::vector<Rule> jumps(Table table);
/// Contents of our chains, in order of generation.
[[nodiscard]] std::vector<Rule> rules(const IptablesConfig& config, Table table);

/// Equal for two rules that differ only in how they are written: order of matches, number bases,
/// quotes, defaults spelt out. For what `rules` and iptables-save write; not for all of iptables.
[[nodiscard]] std::string canonical(std::string_view spec);

/// What iptables-save said about one table.
struct SavedTable {
  std::vector<std::string> chains;
  std::vector<Rule> rules;  // in order
};
/// Finds `table` in the output of iptables-save; an absent table is empty. kUnavailable if the
/// program says that it cannot read the table.
[[nodiscard]] Result<SavedTable> parse_saved(std::string_view output, Table table);

/// Our chains hold exactly our rules (jumps not looked at).
[[nodiscard]] bool rules_in_force(const IptablesConfig& config, Table table,
                                  const SavedTable& saved);
/// Those of `jumps` that `saved` has not.
[[nodiscard]] std::vector<Rule> missing_jumps(Table table, const SavedTable& saved);

/// Input for `iptables-restore --noflush`: our chains replaced if `with_rules`, then the jumps
/// inserted on top of their chains. Empty if there is nothing to do.
[[nodiscard]] std::string restore_input(const IptablesConfig& config, Table table, bool with_rules,
                                        const std::vector<Rule>& missing);
/// Input for `iptables-restore --noflush` that removes our jumps and chains. A chain of ours to
/// which somebody else's rule jumps is only emptied. Empty if there is nothing of ours.
[[nodiscard]] std::string cleanup_input(Table table, const SavedTable& saved);

struct IptablesVersion {
  int major = 0;
  int minor = 0;
  int patch = 0;
  friend auto operator<=>(const IptablesVersion&, const IptablesVersion&) = default;
};
/// From `iptables v1.8.9 (nf_tables)`.
[[nodiscard]] Result<IptablesVersion> parse_version(std::string_view output);

// --- Programs ------------------------------------------------------------------------------------

/// Not thread-safe; blocks for as long as the programs run (each has a deadline).
class Iptables {
 public:
  Iptables() = default;
  Iptables(const Iptables&) = delete;
  Iptables& operator=(const Iptables&) = delete;
  virtual ~Iptables() = default;

  /// Reads the rules and puts right what differs; each table changes atomically. True if anything
  /// was changed. All sets must exist.
  [[nodiscard]] virtual Result<bool> ensure(const IptablesConfig& config) = 0;
  /// Removes our jumps and chains of the family; success if nothing of ours is there.
  [[nodiscard]] virtual Status cleanup(net::Family family) = 0;
};
/// Runs iptables-save and iptables-restore (ip6tables-*) as found in PATH; nothing is run before
/// the first call.
[[nodiscard]] std::unique_ptr<Iptables> make_iptables();

}  // namespace fairlead::dataplane::ipvs
