// SPDX-License-Identifier: Apache-2.0
// ClusterIPs and nodePorts for services whose manifests name none. Pure.
//
// What an operator can rely on:
// - A value written in a manifest is used as it is, inside the ranges or not, and is never given to
//   another service. If a service had been given it before, that one moves.
// - While the process runs, a service keeps what it was given as long as it exists and needs it.
// - The same set of services gives the same result from scratch, in whatever order it is read: the
//   first choice is a hash of namespace and name (and port number), and contenders for one value
//   are served in key order.
// - From scratch (a restart), another service can change this one's result only if their choices
//   meet: adding one to n services moves an old one with a chance of at most n / range size (one in
//   650 for 100 services in a /16; one in 27 for 100 nodePorts). Too much for those whose clients
//   have an address written down, hence `Memory`: what it holds is preferred to the hash, and with
//   it kept in a file nothing moves, ever, but for explicit values. The file is optional: without
//   one, an installation has no state but its manifests, which suits tests, demos and
//   read-only roots.
#pragma once

#include <compare>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "api/objects.h"
#include "base/result.h"
#include "net/address.h"

namespace fairlead::manifest {

struct AllocatorOptions {
  /// In order of preference; the first one's family is the default family of services.
  std::vector<net::IpPrefix> service_ranges = {default_service_range()};
  net::Port first_node_port{30000};
  net::Port last_node_port{32767};

  [[nodiscard]] static net::IpPrefix default_service_range();  // 10.96.0.0/16
};

/// What is wrong with a service's addresses or ports. The service is used without them.
struct AllocationError {
  api::ObjectKey service;
  std::string field;
  std::string problem;

  friend bool operator==(const AllocationError&, const AllocationError&) = default;
};

/// What was given to whom, as text: service, slot (`clusterIP/IPv4`, `nodePort/80`,
/// `healthCheckNodePort`) and value.
class Memory {
 public:
  struct Slot {
    api::ObjectKey service;
    std::string name;
    friend auto operator<=>(const Slot&, const Slot&) = default;
  };

  /// Lines of `namespace/name slot value`; `#` starts a comment line.
  [[nodiscard]] static Result<Memory> parse(std::string_view text);
  [[nodiscard]] std::string text() const;

  [[nodiscard]] const std::string* find(const Slot& slot) const;
  void set(const Slot& slot, std::string value) { values_[slot] = std::move(value); }
  /// Forgets services that `is_known` does not know, once there are more than a few thousand of
  /// them: names may come and go for years. Until then a service that returns gets back what it
  /// had.
  void forget_excess(const std::function<bool(const api::ObjectKey&)>& is_known);

  friend bool operator==(const Memory&, const Memory&) = default;

 private:
  std::map<Slot, std::string> values_;
};

class Allocator {
 public:
  explicit Allocator(AllocatorOptions options, Memory memory = {});

  /// As written in the manifest.
  void put(api::Shared<api::Service> service);
  void erase(const api::ObjectKey& key);

  /// Services, complete, that are new or differ from what an earlier call returned.
  [[nodiscard]] std::vector<api::Shared<api::Service>> settle();

  /// Of the last `settle`, by service.
  [[nodiscard]] std::vector<AllocationError> errors() const;
  [[nodiscard]] const Memory& memory() const { return memory_; }

 private:
  /// A value that can have one holder only: an address, or a port for one protocol.
  struct Value {
    std::optional<net::IpAddress> address;
    net::Port port{};
    net::Protocol protocol{};
    friend auto operator<=>(const Value&, const Value&) = default;
  };
  struct Holder {
    api::ObjectKey service;
    std::string field;
    bool is_explicit = false;
  };
  /// One thing that a service needs; where it goes is told by what is set.
  struct Need {
    std::string slot;
    std::string field;
    std::optional<net::Family> family;      // an address of this family, else a port
    std::optional<net::IpAddress> address;  // explicit
    net::Port port{};                       // explicit, 0: none
    std::vector<std::size_t> port_indexes;  // which service ports get it; empty: health check
    std::vector<net::Protocol> protocols;   // that the port must be free for
    net::Port preferred{};                  // 0: none
    [[nodiscard]] bool is_explicit() const { return address.has_value() || net::number(port) != 0; }
  };
  struct Record {
    api::Shared<api::Service> raw;
    api::Shared<api::Service> delivered;     // null: not yet; `raw` itself where nothing was to add
    std::unique_ptr<api::Service> resolved;  // during settle
    std::vector<Value> held;
    std::vector<AllocationError> errors;
    std::vector<Need> needs;  // during settle
  };

  [[nodiscard]] net::Family default_family() const;
  [[nodiscard]] bool has_range(net::Family family) const;
  [[nodiscard]] std::vector<net::Family> families(Record& record) const;
  void plan_addresses(Record& record) const;
  static void plan_ports(Record& record);
  void plan(Record& record);
  void release(Record& record);
  void drop(Record& record, const Value& value);
  void hold(Record& record, const Value& value, const std::string& field, bool is_explicit);
  void assign(Record& record, const Need& need, const net::IpAddress& address);
  void assign(Record& record, const Need& need, net::Port port);
  [[nodiscard]] static Value explicit_value(const Need& need);
  void claim(Record& record, const Need& need, std::set<api::ObjectKey>& displaced);
  bool take_remembered(Record& record, const Need& need);
  void take_new(Record& record, const Need& need);
  void take_new_address(Record& record, const Need& need, net::Family family);
  void take_new_port(Record& record, const Need& need);
  [[nodiscard]] bool is_free(const Record& record, const Need& need, net::Port port) const;
  [[nodiscard]] bool is_usable(const net::IpAddress& address) const;
  static void complain(Record& record, std::string field, std::string problem);

  AllocatorOptions options_;
  Memory memory_;
  std::map<api::ObjectKey, Record> records_;
  std::map<Value, Holder> holders_;
  std::vector<std::size_t> held_in_range_;  // addresses in use, per range
  std::set<api::ObjectKey> dirty_;
};

}  // namespace fairlead::manifest
