# What the random tests of queries share: chance, rounds, and cutting a failure down.
#
# A round is tables, read models over them, and windows of changes; after each window every read model must equal its query.  It is a hash:
#   schema   the schema it is made in, and dropped with
#   setup    statements that make what the queries read, in their order
#   queries  number => { text, key (as an SQL literal), verified (may cqrs.verify compare it to the bit?),
#            check (a statement that yields a row beginning with 'difference' if something is wrong after a window),
#            born (the window before which the read model is made: 0, the first, if not given), dies (the window before which it is dropped),
#            read (names of what it reads: pN is the read model of query N, over_N the view over it), view (is there such a view?) }
#   windows  a list of windows, each a list of transactions, each a list of statements
#   pauses   window => number of the query whose read model is paused while the first half of the window is applied
# It is run by one psql, so what is shown of a failure can be run by hand.
package Rounds;

use strict;
use warnings;

use CqrsTest;
use Exporter 'import';
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(chance pick some rounds_server run_rounds);

use constant {
	CUT_SECONDS => 60,
	ROUND_SECONDS => 300
};

my $node;
my $attempt = 0;

# ---- chance

sub chance { return rand() < $_[0] }
sub pick { return $_[int(rand(@_))] }

# Some of a list, at least one, each once.
sub some
{
	my ($count, @list) = @_;
	my @result;

	push @result, splice(@list, int(rand(@list)), 1) while @list && @result < $count;
	return @result;
}

# ---- running

# The server that rounds run in.
sub rounds_server
{
	my ($name) = @_;

	$node = new_server($name, 'cqrs.max_workers = 0', 'fsync = off', 'autovacuum = off', 'jit = off', 'statement_timeout = 60s');
	return $node;
}

# The statement that counts the rows in which a read model and its query differ, as multisets, both ways; by what they look like, where that is determined.
sub difference
{
	my ($number, $query) = @_;
	my $row = $query->{verified} ? 't::text' : 't.*';

	return "WITH ours AS MATERIALIZED (SELECT $row FROM p$number t), truth AS MATERIALIZED (SELECT $row FROM ($query->{text}) t) "
	  . "SELECT 'difference', $number, count(*) FROM ((TABLE ours EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE ours)) d HAVING count(*) > 0";
}

# The statement that counts the keys that the extension itself finds to differ.
sub verification
{
	my ($number) = @_;

	return "SELECT 'difference', $number, 'verify', count(*) FROM cqrs.verify('p$number') HAVING count(*) > 0";
}

# The statements that make a read model, and say how it is maintained.
sub creation
{
	my ($number, $query) = @_;

	return ("SELECT cqrs.create_projection('p$number', \$q\$$query->{text}\$q\$, key => $query->{key}) \\g /dev/null",
		"SELECT 'strategy', $number, (SELECT strategy FROM cqrs.versions WHERE projection = 'p$number'::regclass), "
		  . q{count(*) FILTER (WHERE line LIKE '%: full%'), count(*) }
		  . "FROM cqrs.explain('p$number') AS line WHERE line ~ '^(source|reads projection) '",
		$query->{view} ? "CREATE VIEW over_$number AS SELECT * FROM p$number" : ());
}

# The statement that drops a read model.
sub removal
{
	my ($number, $query) = @_;

	return ($query->{view} ? "DROP VIEW over_$number" : (), "SELECT cqrs.drop_projection('p$number') \\g /dev/null");
}

# Is a read model there in a window?
sub lives
{
	my ($query, $window) = @_;

	return ($query->{born} // 0) <= $window && $window < ($query->{dies} // 1_000_000);
}

# The statements that change tables in a window; those of its first half are applied while one read model is paused, if one is to be.
sub changes
{
	my ($round, $number) = @_;
	my @transactions = @{ $round->{windows}[$number] };
	my $paused = $round->{pauses}{$number} // 0;
	my @early = splice(@transactions, 0, @transactions / 2);

	return map { @$_ } @early, @transactions unless $round->{queries}{$paused};
	return (
		"SELECT cqrs.pause('p$paused') \\g /dev/null", (map { @$_ } @early), 'SELECT cqrs.drain() \g /dev/null',
		"SELECT cqrs.resume('p$paused') \\g /dev/null", (map { @$_ } @transactions), "SELECT cqrs.drain('p$paused') \\g /dev/null");
}

# The script of a round.
sub script
{
	my ($round) = @_;
	my @numbers = sort { $a <=> $b } keys %{ $round->{queries} };
	my @lines = (
		'SET client_min_messages = warning', "CREATE SCHEMA $round->{schema}",
		"SET search_path = $round->{schema}, public", @{ $round->{setup} });

	foreach my $number (0 .. $#{ $round->{windows} })
	{
		my @living = grep { lives($round->{queries}{$_}, $number) } @numbers;

		push @lines, map { creation($_, $round->{queries}{$_}) } grep { !$number || !lives($round->{queries}{$_}, $number - 1) } @living;
		push @lines, map { removal($_, $round->{queries}{$_}) }
		  grep { $number && lives($round->{queries}{$_}, $number - 1) && !lives($round->{queries}{$_}, $number) } @numbers;
		push @lines, 'SELECT cqrs.drain() \g /dev/null';
		push @lines, changes($round, $number);
		push @lines, 'SELECT cqrs.drain() \g /dev/null';
		push @lines, map { (difference($_, $round->{queries}{$_}), $round->{queries}{$_}{check} // ()) } @living;
	}
	@numbers = grep { lives($round->{queries}{$_}, $#{ $round->{windows} }) } @numbers;
	push @lines, map { verification($_) } grep { $round->{queries}{$_}{verified} } @numbers;
	push @lines, map { removal($_, $round->{queries}{$_}) } reverse @numbers;
	push @lines, "DROP SCHEMA $round->{schema} CASCADE";
	return join('', map { /\\g/ ? "$_\n" : "$_;\n" } @lines);
}

# Runs a round; returns what psql said: answers and errors.
sub run
{
	my ($round) = @_;
	my ($output, $errors) = ('', '');

	$node->psql('postgres', script($round), stdout => \$output, stderr => \$errors, on_error_stop => 1,
		extra_params => [ '-q', '-F', ' ' ], timeout => ROUND_SECONDS);
	return ($output, $errors);
}

# ---- cutting a failure down

# What is wrong with a round: its first error without the place in the script, or that a read model differs; empty if nothing is.
sub failure
{
	my ($output, $errors) = @_;

	return $1 =~ s/round_\w+//gr =~ s/\d+/N/gr if $errors =~ /((?:ERROR|WARNING|FATAL|PANIC): .*)/;
	return $errors if $errors ne '';
	return $output =~ /^difference/m ? 'difference' : '';
}

# Does a round still fail in the same way?
sub still_fails
{
	my ($round, $failure) = @_;
	my @said = run({ %$round, schema => "$round->{schema}_" . ++$attempt });

	clean_up();
	return failure(@said) eq $failure;
}

# Takes away what a round left that did not come to its end: prepared transactions, read models, schemas.
sub clean_up
{
	$node->safe_psql('postgres', q{
		SET client_min_messages = warning;
		SELECT 'ROLLBACK PREPARED ' || quote_literal(gid) FROM pg_prepared_xacts \gexec
		SELECT format('SELECT cqrs.drop_projection(%L, cascade => true)', view) FROM cqrs_internal.projection ORDER BY id DESC \gexec
		SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspname LIKE 'round%' \gexec});
	return;
}

# The queries of a round that one of them cannot be without: itself and those whose read models it reads.
sub needed
{
	my ($round, $number) = @_;
	my %needed = ($number => $round->{queries}{$number});

	foreach my $read (map { /^(?:p|over_)(\d+)$/ ? $1 : () } @{ $round->{queries}{$number}{read} // [] })
	{
		%needed = (%needed, %{ needed($round, $read) });
	}
	return \%needed;
}

# Leaves out what a failure does not need: other queries, windows, transactions, statements, what the rest does not read.
sub cut_down
{
	my ($round, $failure) = @_;
	my %cut = (%$round);
	my $until = time() + CUT_SECONDS;
	my $progress = 1;

	foreach my $number (sort { $a <=> $b } keys %{ $round->{queries} })
	{
		my %alone = (%$round, queries => needed($round, $number));

		next unless still_fails(\%alone, $failure);
		%cut = %alone;
		last;
	}
	while ($progress)
	{
		$progress = 0;
		foreach my $place (reverse(places($cut{setup}, 'setup', 0), places($cut{windows}, 'windows', 2)))
		{
			my ($part, @place) = @$place;
			my %less = (%cut, $part => without($cut{$part}, @place));

			return \%cut if time() > $until;
			next unless still_fails(\%less, $failure);
			%cut = %less;
			$progress = 1;
		}
	}
	return \%cut;
}

# What can be left out of a nested list, by its places, each after those in it.
sub places
{
	my ($list, $part, $depth, @above) = @_;
	my @places;

	foreach my $number (0 .. $#$list)
	{
		push @places, [ $part, @above, $number ];
		push @places, places($list->[$number], $part, $depth - 1, @above, $number) if $depth > 0;
	}
	return @places;
}

# A nested list without what is at a place; with it as it is if there is nothing there any more.
sub without
{
	my ($list, $at, @deeper) = @_;
	my @copy = @$list;

	return $list if $at > $#copy;
	if (@deeper)
	{
		$copy[$at] = without($copy[$at], @deeper);
	}
	else
	{
		splice(@copy, $at, 1);
	}
	return \@copy;
}

# Shows a failure with as little as it needs.
sub show_failure
{
	my ($number, $round, $output, $errors) = @_;
	my $cut;
	my $script;

	clean_up();
	$cut = cut_down($round, failure($output, $errors));
	$script = script($cut) =~ s/^SELECT 'strategy'.*\n//mgr;
	diag("seed $number\n$errors" . join("\n", grep { /^difference/ } split(/\n/, $output)) . "\nIt takes no more than this:\n$script");
	return;
}

# ---- rounds

# Runs rounds for so many seconds, at least one: the round of a number is made by 'make', and 'learn' is told of each that was good: the round, and
# for each of its queries the strategy, how many sources are full and how many there are.  Ends with the first that fails.
sub run_rounds
{
	my ($seconds, $seed, $make, $learn) = @_;
	my $until = time() + $seconds;
	my $number = $seed;

	note("seed $seed, $seconds s");
	do
	{
		my $round;
		my ($output, $errors);
		my %strategies;
		my $good;

		srand($number);
		$round = $make->($number);
		($output, $errors) = run($round);
		$good = failure($output, $errors) eq '';
		$strategies{$1} = [ $2, $3, $4 ] while $output =~ /^strategy (\d+) (\S+) (\d+) (\d+)$/mg;
		ok($good, "seed $number: read models equal their queries");
		if (!$good)
		{
			show_failure($number, $round, $output, $errors);
			return;
		}
		$learn->($round, \%strategies);
		$number++;
	} while (time() < $until);
	return;
}

1;
