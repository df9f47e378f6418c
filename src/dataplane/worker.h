// SPDX-License-Identifier: Apache-2.0
// Runs a data plane on a thread of its own, so that no kernel call ever blocks the control thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/result.h"
#include "dataplane/data_plane.h"
#include "event/loop.h"
#include "plan/plan.h"

namespace fairlead::dataplane {

/// All public calls belong to the control thread. The mailbox holds one delta: what is submitted
/// while the plane is busy is merged into it, and the newest word about a key wins.
class Worker {
 public:
  /// Called on the worker's thread; makes the plane there, since kernel handles act in the network
  /// namespace of the thread that opens them. The loop is the worker's, and outlives the plane.
  using Factory = std::function<Result<std::unique_ptr<DataPlane>>(event::Loop&)>;
  struct Events {
    /// The plane has read the kernel and takes deltas, or it cannot work at all. Control thread.
    std::function<void(Status)> started;
    /// After each run that did something. Control thread.
    std::function<void(const Summary&)> progress;
  };

  Worker(event::Loop& control, Factory factory, Events events);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  /// Finishes what was submitted and joins. The kernel keeps its state.
  ~Worker();

  /// The first delta must be the whole plan. `generation` comes back in Summary once applied.
  void submit(const plan::Delta& delta, std::uint64_t generation);

 private:
  struct Mailbox {
    std::map<plan::VirtualServerKey, plan::VirtualServerPtr> changes;  // null: removed
    std::uint64_t generation = 0;
    bool filled = false;
  };

  void main();
  void take_mail();
  void run_due();
  void report();

  event::Loop& control_;
  Factory factory_;
  std::shared_ptr<const Events> events_;
  std::shared_ptr<bool>
      alive_;  // false once destroyed: late posts to the control thread do nothing

  std::mutex mutex_;
  Mailbox mailbox_;  // guarded by mutex_

  // Used by the worker's thread only, after construction.
  std::unique_ptr<event::UvLoop> loop_;
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<event::Timer> timer_;
  std::uint64_t generation_ = 0;

  std::thread thread_;
};

}  // namespace fairlead::dataplane
