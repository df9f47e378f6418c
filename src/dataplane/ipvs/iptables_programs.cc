// SPDX-License-Identifier: Apache-2.0
// The part of iptables.h that runs programs.
#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/subprocess.h"
#include "dataplane/ipvs/iptables.h"

namespace fairlead::dataplane::ipvs {
namespace {

using std::chrono::seconds;

// Above the 5 s that iptables-restore itself waits for the lock of the tables.
constexpr seconds kDeadline{20};
constexpr IptablesVersion kFirstWithWait{1, 6, 2};  // also the first with --random-fully

std::string program(net::Family family, std::string_view suffix) {
  return (family == net::Family::kIpv4 ? "iptables" : "ip6tables") + std::string(suffix);
}

std::string rule_text(const Rule& rule) { return rule.chain + " " + rule.spec + "\n"; }

std::string our_part(Table table, const SavedTable& saved) {
  std::string out;
  for (const std::string& chain : saved.chains) {
    out += is_ours(chain, table) ? chain + "\n" : "";
  }
  for (const Rule& rule : saved.rules) {
    out += is_ours(rule.chain, table) ? rule_text(rule) : "";
  }
  return out;
}

class ProgramIptables final : public Iptables {
 public:
  Result<bool> ensure(const IptablesConfig& config) override {
    FamilyState& state = states_[config.family];
    if (Status status = learn_version(config.family, state); !status) {
      return fail(status.error());
    }
    IptablesConfig effective = config;
    effective.random_fully = config.random_fully && state.version >= kFirstWithWait;
    effective.physdev = config.physdev && !state.lacks_physdev;
    if (state.written != effective) {
      state.seen_after_write.clear();
    }
    bool changed = false;
    for (const Table table : {Table::kNat, Table::kFilter}) {
      const Result<bool> result = ensure_table(effective, table, state);
      if (!result) {
        return fail(result.error().in("rules of table " + std::string(text(table)) + " for " +
                                      std::string(net::text(config.family))));
      }
      changed = changed || *result;
    }
    return changed;
  }

  Status cleanup(net::Family family) override {
    FamilyState& state = states_[family];
    if (Status status = learn_version(family, state); !status) {
      return status;
    }
    state.written.reset();
    std::string input;
    for (const Table table : {Table::kNat, Table::kFilter}) {
      const Result<SavedTable> saved = read(family, table);
      if (!saved) {
        return fail(saved.error());
      }
      input += cleanup_input(table, *saved);
    }
    return input.empty() ? Status() : restore(family, input, state);
  }

 private:
  struct FamilyState {
    std::optional<IptablesVersion> version;
    bool lacks_physdev = false;
    std::optional<IptablesConfig> written;
    /// How iptables-save showed our chains right after we wrote them. A program that words a rule
    /// in a way `canonical` does not foresee would otherwise make us write for ever.
    std::map<Table, std::string> seen_after_write;
  };

  static Status learn_version(net::Family family, FamilyState& state) {
    if (!state.version) {
      const auto output = run_program({program(family, ""), "--version"}, "", kDeadline);
      if (!output) {
        return fail(output.error());
      }
      const Result<IptablesVersion> version = parse_version(*output);
      if (!version) {
        return fail(version.error().in(program(family, " --version")));
      }
      state.version = *version;
    }
    return {};
  }

  static Result<SavedTable> read(net::Family family, Table table) {
    const auto output =
        run_program({program(family, "-save"), "-t", std::string(text(table))}, "", kDeadline);
    return output ? parse_saved(*output, table) : fail(output.error());
  }

  static Status restore(net::Family family, const std::string& input, const FamilyState& state) {
    std::vector<std::string> argv = {program(family, "-restore"), "--noflush"};
    if (state.version >= kFirstWithWait) {
      argv.insert(argv.end(), {"-w", "5"});
    }
    const auto output = run_program(argv, input, kDeadline);
    return output ? Status() : fail(output.error());
  }

  /// Writes one table. A kernel without the physdev match refuses the table without naming the
  /// cause, so try once more without the rules that need it.
  static Status write(IptablesConfig& config, Table table, bool with_rules,
                      const std::vector<Rule>& missing, FamilyState& state) {
    Status status =
        restore(config.family, restore_input(config, table, with_rules, missing), state);
    if (status || !with_rules || table != Table::kNat || !config.physdev) {
      return status;
    }
    IptablesConfig without = config;
    without.physdev = false;
    if (!restore(config.family, restore_input(without, table, with_rules, missing), state)) {
      return status;
    }
    log::warn("iptables refuses the physdev match, external IPs go without it",
              {{"family", net::text(config.family)}, {"error", status.error().text()}});
    state.lacks_physdev = true;
    config = without;
    return {};
  }

  static void remember_wording(const IptablesConfig& config, Table table, FamilyState& state) {
    state.seen_after_write.erase(table);
    const Result<SavedTable> after = read(config.family, table);
    if (!after || rules_in_force(config, table, *after)) {
      return;
    }
    // Of another length: rather damaged again already than worded in another way.
    const auto count = static_cast<std::size_t>(std::ranges::count_if(
        after->rules, [&](const Rule& rule) { return is_ours(rule.chain, table); }));
    if (count == rules(config, table).size()) {
      log::debug("iptables-save words our rules in an unknown way",
                 {{"family", net::text(config.family)}, {"table", text(table)}});
      state.seen_after_write[table] = our_part(table, *after);
    }
  }

  static Result<bool> ensure_table(IptablesConfig& config, Table table, FamilyState& state) {
    const Result<SavedTable> saved = read(config.family, table);
    if (!saved) {
      return fail(saved.error());
    }
    const auto seen = state.seen_after_write.find(table);
    const bool good =
        rules_in_force(config, table, *saved) ||
        (seen != state.seen_after_write.end() && seen->second == our_part(table, *saved));
    const std::vector<Rule> missing = missing_jumps(table, *saved);
    if (good && missing.empty()) {
      state.written = config;
      return false;
    }
    if (Status status = write(config, table, !good, missing, state); !status) {
      return fail(status.error());
    }
    state.written = config;
    remember_wording(config, table, state);
    return true;
  }

  std::map<net::Family, FamilyState> states_;
};

}  // namespace

std::unique_ptr<Iptables> make_iptables() { return std::make_unique<ProgramIptables>(); }

}  // namespace fairlead::dataplane::ipvs
