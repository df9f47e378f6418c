# SPDX-License-Identifier: Apache-2.0
# For sourcing by `uml` and `qemu`: what a bed with a kernel of its own has whatever boots it, which
# are its options, the directory it shares with its guest, and the end.
#
# A bed says in $own_options which options with a value it knows besides those of `read_options`,
# and takes them in `own_option`. It starts its guest between `prepare` and `finish`.
bed=${0##*/}
here=$(dirname "$(readlink -f "$0")")
mem=2G timeout=600 kernel_log='' shares=() variables=() command=()

fail() { # what is missing, and the mend
  echo "$bed: $*" >&2
  exit 2
}

read_options() {
  while (($#)); do
    case $1 in
      --) shift && break ;;
      --help | -h) sed -n "/^#   $bed/,/^set/{s/^# \{0,1\}//;/^set/d;p}" "$0" && exit 0 ;;
      -*) ;;
      *) break ;;
    esac
    [[ " --mem --timeout --share --env --kernel-log ${own_options-} " == *" $1 "* ]] ||
      fail "unknown option $1 (see $bed --help)"
    (($# >= 2)) || fail "$1 needs a value"
    case $1 in
      --mem) mem=$2 ;;
      --timeout) timeout=$2 ;;
      --share)
        [[ -d $2 ]] || fail "--share $2: no such directory; create it first"
        shares+=("$(readlink -f "$2")")
        ;;
      --env)
        [[ $2 == [A-Za-z_]*=* ]] || fail "--env $2: write NAME=VALUE"
        variables+=("$2")
        ;;
      --kernel-log) kernel_log=$(readlink -f "$2") ;;
      *) own_option "$1" "$2" ;;
    esac
    shift 2
  done
  command=("$@")
  ((${#command[@]})) || fail "no command given (see $bed --help)"
  [[ $timeout =~ ^[0-9]+$ ]] || fail "--timeout $timeout: write whole seconds"
}

work='' guest='' timer=''
clean_up() {
  {
    kill -KILL ${guest:+"$guest"} ${timer:+"$timer"}
    wait
  } 2>/dev/null
  rm -rf "$work"
}

# What the guest needs to know travels as files in one shared directory, mounted as /run/$bed, and
# the exit status comes back the same way: a kernel command line is too short, and quotes nothing.
prepare() {
  work=$(mktemp -d -t "$bed.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir "$work/exchange"
  printf '%s\n' "${shares[@]}" >"$work/exchange/shares"
  {
    [[ -t 1 ]] && printf 'export TERM=%q\n' "${TERM:-dumb}" || echo 'export TERM=dumb'
    ((${#variables[@]})) && printf 'export %q\n' "${variables[@]}"
    printf 'cd %q || exit 125\n' "$PWD"
    printf 'exec'
    printf ' %q' "${command[@]}"
    echo
  } >"$work/exchange/command"
}

# Waits for $guest, whose host process wrote host.log and whose kernel wrote kernel.log, and exits.
finish() {
  local ended
  ((timeout)) && { sleep "$timeout" & timer=$!; }
  { # the shell would tell of each child that was killed
    wait -n -p ended "$guest" $timer
    if [[ $ended == "$guest" ]]; then
      [[ $timer ]] && kill "$timer"
    else
      kill -KILL "$guest"
    fi
    wait # also for the two that copy output: nothing is lost, and no process is left
  } 2>/dev/null
  [[ $kernel_log ]] && cp "$work/kernel.log" "$kernel_log"

  if [[ -s $work/exchange/status ]]; then
    exit "$(<"$work/exchange/status")"
  elif [[ $ended == "$timer" ]]; then
    echo "$bed: killed after $timeout s: ${command[*]}" >&2
    exit 124
  fi
  echo "$bed: the guest died before the command ended; its last words:" >&2
  tail -n 60 "$work/host.log" "$work/kernel.log" >&2
  exit 125
}
