# SPDX-License-Identifier: Apache-2.0
# For sourcing: runs the layers of a test run and adds up what they say.
#
# A layer's last line of the form `N passed, N failed[, N skipped]` counts; summaries of ctest and of
# GoogleTest programs count as their numbers; a layer with none of these counts as one test, by its exit status. A layer that fails
# without naming a failed test counts one failure. What failed is told once more before the totals:
# it may be all that is kept of a long run's output.
passed=0 failed=0 skipped=0 failures=

sum() { # PATTERN: adds the numbers of the lines that fit, in the current layer's log
  grep -oE "$1" "$log" | awk '{n += $NF} END {print n + 0}'
}

# The log's lines that name a failure, each with the first lines of its reason; if it holds a verdict, what that told.
failures_of() { # LAYER
  grep '^! ' "$log" && return
  tr -d '\r' <"$log" | awk -v layer="$1" '
    /^FAIL / { left = 12; indented = 1; print "! " layer ": " $0; next }
    /: Failure$/ { left = 6; indented = 0; print "! " layer ": " $0; next }
    /^\[  FAILED  \] [^0-9]/ || /^[[:space:]]*[0-9]+ - .* \([A-Z][A-Za-z ]*\)$/ { left = 0; print "! " layer ": " $0; next }
    left && (!indented || /^ /) { left--; print "!     " $0; next }
    { left = 0 }'
}

layer() { # NAME COMMAND...
  local name=$1 log status=0 line p=0 f=0 s=0 started=$SECONDS
  shift
  log=$(mktemp)
  echo "== $name"
  "$@" 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  line=$(grep -E '^([A-Za-z]+: )?[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1) || true
  if [[ $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)? ]]; then
    p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[4]:-0}
  elif line=$(grep -E 'tests passed, [0-9]+ tests? failed out of [0-9]+' "$log" | tail -n 1) &&
    [[ $line =~ ([0-9]+)\ tests?\ failed\ out\ of\ ([0-9]+) ]]; then
    f=${BASH_REMATCH[1]} p=$((BASH_REMATCH[2] - BASH_REMATCH[1]))
  elif grep -q '^\[  PASSED  \] ' "$log"; then
    p=$(sum '^\[  PASSED  \] [0-9]+') f=$(grep -cE '^\[  FAILED  \] .* \([0-9]+ ms\)$' "$log") s=$(sum '^\[  SKIPPED \] [0-9]+')
  elif ((status == 0)); then
    p=1
  else
    f=1
  fi
  ((status == 0 || f > 0)) || f=1
  if ((f)); then
    line=$(failures_of "$name" | head -n 100)
    failures+=${line:-"! $name: exit status $status, $(tail -n 1 "$log")"}$'\n'
  fi
  rm -f "$log"
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  echo "-- $name: $p passed, $f failed, $s skipped in $((SECONDS - started)) s"
}

# One command may run beside the layers; it becomes a layer by `layer NAME what_ran_beside`.
beside() { # COMMAND...
  beside_log=$(mktemp)
  { "$@"; echo $? >"$beside_log.status"; } >"$beside_log" 2>&1 &
  beside_pid=$!
}

what_ran_beside() { # and runs until now
  local status
  tail --pid="$beside_pid" -n +1 -f "$beside_log"
  status=$(cat "$beside_log.status")
  rm -f "$beside_log" "$beside_log.status"
  return "$status"
}

units() { # BUILD-FOLDER: its unit tests; of those that pass only the number
  ctest --test-dir "$1" --output-on-failure -j 2 | grep -vE '^ +Start +[0-9]+: | Passed +[0-9.]+ sec$'
  return "${PIPESTATUS[0]}"
}

verdict() {
  printf '%s' "$failures"
  echo "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0))
}
