# Random grouped queries over joins, random changes of several tables in a window, and the plain query as the judge: delta.pl [SECONDS [SEED]], or SECONDS and SEED
# in the environment.
#
# What strategy delta adds up must be what the query yields, to the digit: counts, sums, averages, least and greatest values, expressions over them, with FILTER,
# HAVING, DISTINCT, over joins and self-joins, where groups die and return, values are NaN, infinite, of many scales, keys swap, transactions commit late,
# tables are truncated, savepoints rolled back.  Some columns are of groups that keys recomputes in the same window: those of subqueries, and of tables
# that rows depend on.  After each window every read model equals its query, and what its table holds hidden is what the query's groups are made of.
use strict;
use warnings;

use lib 'test/random', 'test/t';
use Rounds;
use Test::More;

use constant {
	QUERIES => 6,
	WINDOWS => 6
};

my $seconds = $ARGV[0] // $ENV{SECONDS} // 30;
my $seed = $ARGV[1] // $ENV{SEED} // int(rand(1_000_000_000));
my @tables = qw(t0 t1 t2);
my @columns = qw(id a b s v n m x);
my %seen = (rounds => 0, queries => 0, windows => 0, delta => 0, other => 0);

# The types of columns, and values that meet, overflow a little less than they could, or look different where they are equal.
my %values = (
	id => [ 0 .. 9 ],
	a => [ 0 .. 2 ],
	b => [ 0 .. 3 ],
	s => [ -32768, -1, 0, 7, 32767 ],
	v => [ -9223372036854775808, -3, 0, 5, 9223372036854775807 ],
	n => [ qw(0 1 1.0 1.50 0.333 1e-20 12345678901234567890.5 -2 -2.000) ],
	m => [ qw(0 1 1.25 -3.5 99999.99) ],
	x => [ "'a'", "'B'", "'b'", "''" ]);
my $special;    # whether numerics may be no numbers in this round

# ---- queries

# A value for a column.
sub value
{
	my ($column) = @_;

	return 'NULL' if chance(0.12);
	return pick("'NaN'", "'Infinity'", "'-Infinity'") if $special && $column eq 'n' && chance(0.12);
	return "'NaN'" if $special && $column eq 'm' && chance(0.04);
	return pick(@{ $values{$column} });
}

# A column of one of a query's relations.
sub column
{
	my ($query, @of) = @_;

	return pick(@{ $query->{relations} }) . '.' . pick(@of ? @of : qw(id a b));
}

# A condition about one relation or several.
sub condition
{
	my ($query) = @_;
	my ($x, $y) = map { column($query) } 1 .. 2;

	return pick("$x = $y", "$x > 0", "$x <> $y", "$x IS NOT NULL", "$x IN (0, 2)", "coalesce($x, 1) = 1", column($query, 'n') . ' > 0',
		column($query, 'x') . q{ > 'a'}, "$x IS NOT DISTINCT FROM $y", "NOT ($x = 1 AND $y = 2)");
}

# A condition with a subquery, whose table is followed by keys.
sub subquery
{
	my ($query) = @_;
	my ($x, $y) = map { column($query) } 1 .. 2;
	my $table = pick(@tables);

	return pick("EXISTS (SELECT FROM $table i WHERE i.a = $x)", "NOT EXISTS (SELECT FROM $table i WHERE i.b = $x AND i.a = $y)",
		"$x IN (SELECT i.a FROM $table i)");
}

# FROM, with what joins its relations.
sub make_from
{
	my ($query) = @_;
	my $count = pick(1, 1, 2, 2, 2, 3);
	my $text = '';

	foreach my $number (0 .. $count - 1)
	{
		my $table = pick(@tables);
		my $on;

		push @{ $query->{relations} }, "r$number";
		$query->{table}{"r$number"} = $table;
		if (!$number)
		{
			$text = "$table AS r0";
			next;
		}
		$on = join(' AND ', map { pick(@{ $query->{relations} }[ 0 .. $number - 1 ]) . '.' . pick(qw(id a b)) . " = r$number." . pick(qw(id a b)) }
			  1 .. pick(1, 1, 1, 2));
		$on .= ' AND ' . condition($query) if chance(0.2);
		$text = chance(0.1) ? "($text JOIN $table AS r$number ON $on)" : "$text JOIN $table AS r$number ON $on";
		$text .= " JOIN (SELECT id AS i$number, a AS f$number FROM " . pick(@tables) . ") AS q$number ON f$number = " . column($query)
		  if chance(0.1);
	}
	return $text;
}

# Something that is added up.
sub argument
{
	my ($query, @of) = @_;
	my $x = column($query, @of);

	return $x if chance(0.7);
	return pick("CASE WHEN " . column($query) . " > 0 THEN $x END", "nullif($x, " . column($query, @of) . ')', "coalesce($x, " . column($query, @of) . ')');
}

# An aggregate; 'verified' is unset where what it puts out may look different from time to time.
sub aggregate
{
	my ($query) = @_;
	my @numbers = (['id'], ['s'], ['v'], ['n'], ['m']);
	my $text = pick(
		'count(*)',
		'count(' . argument($query, pick(@columns)) . ')',
		(map { 'sum(' . argument($query, @$_) . ')' } @numbers),
		(map { 'avg(' . argument($query, @$_) . ')' } @numbers),
		'sum(' . column($query, 'm') . ' * ' . column($query, 'a') . ')',
		'sum(' . column($query, 'n') . ' - ' . column($query, 'm') . ')',
		map { my $of = $_; map { "$_(" . argument($query, $of) . ')' } qw(min max) } qw(id s v m x));

	if (chance(0.06))
	{
		$text = pick('min(', 'max(') . column($query, 'n') . ')';
		$query->{verified} = 0;
	}
	$text .= ' FILTER (WHERE ' . condition($query) . ')' if chance(0.25);
	return $text;
}

# A column over aggregates.  What may look different is not shown as text.
sub output
{
	my ($query) = @_;
	my ($x, $y) = map { aggregate($query) } 1 .. 2;

	return $x if chance(0.7) || !$query->{verified};
	return pick("coalesce(($x)::text, 'none')", "jsonb_build_object('x', $x, 'y', $y)", "1000 / (1 + count(*))",
		'sum(' . column($query, 'a') . ') * 2 - count(' . column($query, 'b') . ')', "($x) IS NULL",
		'CASE WHEN count(*) > 2 THEN 100 / (count(*) - 2) END');
}

# What groups are made by.
sub group
{
	my ($query) = @_;
	my $x = column($query, qw(id a b s x m));

	return $x if chance(0.75);
	return pick(column($query) . ' + 1', 'coalesce(' . column($query) . ', -1)', 'lower(' . column($query, 'x') . ')', column($query, 'a') . ' IS NULL');
}

# A query, with its key.
sub make_query
{
	my $query = { relations => [], verified => 1 };
	my $from = make_from($query);
	my @where = map { condition($query) } 1 .. pick(0, 0, 1, 2);
	my @groups = map { group($query) } 1 .. pick(0, 1, 1, 1, 2, 2);
	my $distinct = @groups && chance(0.12);
	my (@outputs, $where, $having, $pinned);

	push @where, subquery($query) if chance(0.12);
	$where = @where ? ' WHERE ' . join(' AND ', @where) : '';
	$pinned = !$distinct && chance(0.15) ? pick(@{ $query->{relations} }) : '';
	$pinned = '' if $pinned && $query->{table}{$pinned} eq 't2';
	@groups = ("$pinned.id") if $pinned;
	@outputs = map { output($query) } 1 .. 1 + int(rand(4)) if !$distinct;
	push @outputs, "$pinned.x", "$pinned.b" if $pinned;
	$having = !$distinct && chance(0.25) ? ' HAVING ' . pick('count(*) > 1', 'count(*) < 4', 'sum(' . column($query, 'a') . ') > 2',
		'max(' . column($query, 'b') . ') = 2', 'count(*) <> 2') : '';
	$query->{text} = 'SELECT ' . ($distinct ? 'DISTINCT ' : '')
	  . join(', ', (map { "$groups[$_] AS k$_" } 0 .. $#groups), map { "$outputs[$_] AS o$_" } 0 .. $#outputs) . " FROM $from$where"
	  . (@groups && !$distinct ? ' GROUP BY ' . join(', ', 1 .. @groups) : '') . $having;
	$query->{key} = "'{" . join(', ', map { "k$_" } 0 .. $#groups) . "}'";
	return $query;
}

# ---- changes

# A row of values; its id is NULL where it is to be a new one.
sub row
{
	return '(' . join(', ', map { value($_) } @columns[ 1 .. $#columns ]) . ')';
}

# An INSERT of a few rows.
sub insert
{
	my ($table, $count) = @_;
	my $names = join(', ', @columns[ 1 .. $#columns ]);

	return "INSERT INTO $table ($names) VALUES " . join(', ', map { row() } 1 .. $count);
}

# A condition that picks some rows of a table.
sub some_rows
{
	return pick('a = ' . int(rand(3)), 'b IS NULL', 'id % 3 = ' . int(rand(3)), 'id < 6', "n = 'NaN'", 'scale(n) > 2', 'true', 'v = 0', 'm > 1');
}

# A statement that changes a table.
sub change
{
	my $table = pick(@tables);
	my $column = pick(@columns[ 1 .. $#columns ]);
	my $luck = rand();

	return insert($table, 1 + int(rand(3))) if $luck < 0.4;
	return "UPDATE $table SET $column = " . value($column) . ' WHERE ' . some_rows() if $luck < 0.6;
	return "DELETE FROM $table WHERE " . some_rows() if $luck < 0.75;
	return 'UPDATE t2 SET id = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (1, 2) AND (SELECT count(*) FROM t2 WHERE id IN (1, 2)) = 2' if $luck < 0.79;
	return "UPDATE $table SET id = -id WHERE id % 3 = 1" if $luck < 0.82;
	return "UPDATE $table SET a = b, b = a WHERE " . some_rows() if $luck < 0.87;
	return "UPDATE $table SET n = n * 1.00, m = m WHERE " . some_rows() if $luck < 0.9;
	return "TRUNCATE $table" if $luck < 0.91;
	return "WITH gone AS (DELETE FROM $table WHERE " . some_rows() . ' RETURNING a, b, s, v, n, m, x) INSERT INTO ' . pick(@tables)
	  . ' (a, b, s, v, n, m, x) SELECT * FROM gone';
}

# A transaction, as a list of statements; one that is prepared inserts only, since it is in nobody's way then.
sub transaction
{
	my ($name) = @_;
	my @statements = map { change() } 1 .. pick(1, 1, 2, 3);

	return ('BEGIN', insert(pick(@tables), 2), insert(pick(@tables), 1), "PREPARE TRANSACTION '$name'") if $name && chance(0.15);
	push @statements, 'SAVEPOINT s', change(), pick('ROLLBACK TO s', 'RELEASE s'), change() if chance(0.2);
	return ('BEGIN', @statements, chance(0.92) ? 'COMMIT' : 'ROLLBACK');
}

# The changes of a round: windows of transactions; a prepared one commits in a later window.
sub make_windows
{
	my ($schema) = @_;
	my (@windows, @prepared);

	foreach my $number (1 .. WINDOWS)
	{
		my @transactions;

		push @transactions, [ "COMMIT PREPARED '" . shift(@prepared) . q{'} ] if @prepared && chance(0.6);
		foreach my $count (1 .. pick(1, 1, 2, 3))
		{
			my $name = "${schema}_${number}_$count";
			my @statements = transaction($number < WINDOWS && !@prepared ? $name : '');

			@statements = grep { !/^(TRUNCATE|UPDATE|DELETE|WITH)/ } @statements if @prepared;
			push @prepared, $name if $statements[-1] =~ /^PREPARE/;
			push @transactions, \@statements;
		}
		push @windows, \@transactions;
	}
	push @windows, [ map { ["COMMIT PREPARED '$_'"] } @prepared ] if @prepared;
	return \@windows;
}

# ---- rounds

# Counts rows in which a read model's table, hidden columns and all, differs from the query that fills it.
my $hidden_differences = q{
	CREATE FUNCTION hidden_differences(model text, looks boolean) RETURNS bigint LANGUAGE plpgsql AS $f$
	DECLARE
		held regclass := (SELECT v."table" FROM cqrs_internal.version v JOIN cqrs_internal.projection p ON p.id = v.projection
			WHERE p.view = model::regclass);
		evaluate text := (SELECT substr(line, length('evaluate: ')) FROM cqrs.explain(model::regclass) AS line
			WHERE line LIKE 'evaluate: %');
		shape text := CASE WHEN looks THEN 't::text' ELSE 't.*' END;
		found bigint;
	BEGIN
		EXECUTE format('WITH ours AS MATERIALIZED (SELECT %1$s FROM %2$s t), truth AS MATERIALIZED (SELECT %1$s FROM (%3$s) t) ' ||
			'SELECT count(*) FROM ((TABLE ours EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE ours)) d', shape, held, evaluate)
			INTO found;
		RETURN found;
	END$f$};

# A round from its number.
sub make_round
{
	my ($number) = @_;
	my %round = (schema => "round_$number");

	$special = chance(0.4);
	$round{setup} = [
		map { s/\s+/ /gr } (
			$hidden_differences,
			map { my $deferrable = $_ eq 't2' ? ' DEFERRABLE' : ''; ("CREATE TABLE $_ (id integer PRIMARY KEY$deferrable GENERATED BY DEFAULT AS IDENTITY, a integer, b integer, s smallint, v bigint, n numeric, m numeric(8, 2), x text)",
					insert($_, 1 + int(rand(6)))) } @tables) ];
	$round{queries} = { map { $_ => make_query() } 1 .. QUERIES };
	foreach my $key (keys %{ $round{queries} })
	{
		my $looks = $round{queries}{$key}{verified} ? 'true' : 'false';

		$round{queries}{$key}{check} = "SELECT 'difference', $key, 'hidden', d FROM hidden_differences('p$key', $looks) AS d WHERE d > 0";
	}
	$round{windows} = make_windows($round{schema});
	return \%round;
}

# Counts what a round was about.
sub learn
{
	my ($round, $strategies) = @_;

	$seen{rounds}++;
	$seen{queries} += QUERIES;
	$seen{windows} += QUERIES * @{ $round->{windows} };
	$seen{ $_->[0] eq 'delta' ? 'delta' : 'other' }++ foreach values %$strategies;
	return;
}

my $node = rounds_server('delta');

run_rounds($seconds, $seed, \&make_round, \&learn);
ok($seen{delta} > $seen{other}, 'most queries are followed by delta');
note(join(', ', map { "$seen{$_} $_" } qw(rounds queries windows delta other)));
$node->stop;
done_testing();
