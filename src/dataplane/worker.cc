// SPDX-License-Identifier: Apache-2.0
#include "dataplane/worker.h"

#include <algorithm>
#include <csignal>
#include <pthread.h>
#include <utility>

namespace fairlead::dataplane {

Worker::Worker(event::Loop& control, Factory factory, Events events)
    : control_(control),
      factory_(std::move(factory)),
      events_(std::make_shared<const Events>(std::move(events))),
      alive_(std::make_shared<bool>(true)),
      loop_(event::make_uv_loop()),
      thread_([this] { main(); }) {}

Worker::~Worker() {
  *alive_ = false;
  loop_->stop();
  thread_.join();
}

void Worker::submit(const plan::Delta& delta, std::uint64_t generation) {
  bool wake = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const plan::VirtualServerPtr& server : delta.put) {
      mailbox_.changes[server->key] = server;
    }
    for (const plan::VirtualServerKey& key : delta.removed) {
      mailbox_.changes[key] = nullptr;
    }
    mailbox_.generation = generation;
    wake = !std::exchange(mailbox_.filled, true);
  }
  if (wake) {
    loop_->post([this] { take_mail(); });
  }
}

void Worker::main() {
  // Signals belong to the control thread's loop.
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);

  Status status;
  auto made = factory_(*loop_);
  if (made) {
    plane_ = std::move(*made);
    status = plane_->start(loop_->now());
  } else {
    status = fail(std::move(made.error()));
  }
  if (!status) {
    plane_.reset();
  }
  control_.post([events = events_, alive = alive_, status] {
    if (*alive) {
      events->started(status);
    }
  });
  if (plane_ != nullptr) {
    timer_ = loop_->timer([this] { run_due(); });
  }
  loop_->run();
  timer_.reset();
  plane_.reset();
}

void Worker::take_mail() {
  Mailbox mail;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    mail = std::exchange(mailbox_, {});
  }
  if (plane_ == nullptr) {
    return;
  }
  plan::Delta delta;
  for (auto& [key, server] : mail.changes) {
    if (server != nullptr) {
      delta.put.push_back(std::move(server));
    } else {
      delta.removed.push_back(key);
    }
  }
  plane_->apply(delta, loop_->now());
  generation_ = mail.generation;
  report();
}

void Worker::run_due() {
  plane_->run_due(loop_->now());
  report();
}

void Worker::report() {
  Summary summary = plane_->summary();
  summary.generation = generation_;
  control_.post([events = events_, alive = alive_, summary = std::move(summary)] {
    if (*alive) {
      events->progress(summary);
    }
  });
  if (const auto next = plane_->next_due()) {
    timer_->start(std::max(*next - loop_->now(), Duration::zero()));
  }
}

}  // namespace fairlead::dataplane
