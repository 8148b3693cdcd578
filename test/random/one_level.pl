# Random queries of one level over random tables, random changes, and the plain query as the judge: one_level.pl [SECONDS [SEED]], or SECONDS and SEED in the
# environment.
#
# A round makes small tables full of nulls and equal values, read models of joins of every kind over them (outer, full, cross, self-joins, conditions over
# three relations, conditions that are not strict, key columns from nullable sides, keys that are expressions, HAVING), and changes several tables in one
# window, in several transactions, rolled back savepoints and prepared transactions among them.  After each window every read model must equal its query.
# Round N of a run has the seed SEED + N, so `one_level.pl 1 SEED` repeats one.  A difference is cut down to the changes it needs, and shown.
use strict;
use warnings;

use lib 'test/random', 'test/t';
use Rounds;
use Test::More;

use constant {
	TABLES => 4,
	QUERIES => 6,
	WINDOWS => 6
};

my $seconds = $ARGV[0] // $ENV{SECONDS} // 30;
my $seed = $ARGV[1] // $ENV{SEED} // int(rand(1_000_000_000));
my @columns = qw(id a b n v t);    # no condition or key asks for v and t
my %seen = (rounds => 0, queries => 0, windows => 0, keys => 0, full => 0);

# ---- queries

# A value for a column: few different ones, so that they meet; numerics that are equal and look different.
sub value
{
	my ($column) = @_;

	return 'NULL::' . ({ n => 'numeric', t => 'text' }->{$column} // 'integer') if chance(0.15);
	return pick(qw(0 0.0 1 1.0 1.00 2)) if $column eq 'n';
	return chance(0.05) ? "'" . join(' ', map { rand() } 1 .. 200) . "'" : pick(q{'x'}, q{'y'}) if $column eq 't';
	return int(rand(3));
}

# A column of a relation, as it must be written where the query has got to: an alias given to a join hides what is below it.
sub column
{
	my ($query, $relation, @of) = @_;

	return $query->{names}{$relation} =~ s/\*/pick(@of ? @of : qw(id a b))/er;
}

# A condition that links two groups of relations.
sub condition
{
	my ($query, $left, $right, $must_hash) = @_;
	my @all = (@$left, @$right);
	my ($x, $y, $z) = (column($query, pick(@$left)), column($query, pick(@$right)), column($query, pick(@all)));

	return "$x = $y" if $must_hash || chance(0.6);
	return pick(
		"$x = ($y + $z) % 3", "$x = coalesce($y, $z)", "$x < $y", "($x = $y OR $x = $z)", "$x IS NOT DISTINCT FROM $y",
		"NOT $x <> $y", "$x + $y = $z", column($query, pick(@$left), 'n') . " = $y", "($x, $y) = ($z, $x)", "$x = ANY (ARRAY[$y, $z])");
}

# A condition about one relation, or about whether it is there.
sub filter
{
	my ($query, @relations) = @_;
	my $relation = pick(@relations);
	my $x = column($query, $relation);

	return column($query, $relation, 'n') . q{::text = '1.00'} if chance(0.15);
	return pick("$x = " . int(rand(3)), "$x > 0", "$x IN (0, 2)", "coalesce($x, 1) = 1", "$x IS NULL", "$x IS NOT NULL", "$x IS DISTINCT FROM 1");
}

# Gives a join a name and its columns new ones.
sub hide
{
	my ($query, $text, @relations) = @_;
	my $name = 'j' . ++$query->{hidden};
	my @names;

	foreach my $relation (@relations)
	{
		push @names, map { "${_}_$relation" } @columns;
		$query->{names}{$relation} = "$name.*_$relation";
	}
	return "$text AS $name (" . join(', ', @names) . ')';
}

# Joins two parts of FROM.
sub join_parts
{
	my ($query, $left, $right) = @_;
	my @relations = (@{ $left->{relations} }, @{ $right->{relations} });
	my $type = pick(@{ $query->{joins} });
	my @on;
	my $text;

	push @on, condition($query, $left->{relations}, $right->{relations}, $type eq 'FULL') unless $type eq 'INNER' && chance(0.1);
	push @on, condition($query, $left->{relations}, $right->{relations}) if chance(0.25);
	push @on, filter($query, @relations) if @on && chance(0.15);
	$text = "($left->{text} $type JOIN $right->{text} ON " . (join(' AND ', @on) || 'true') . ')';
	$text = hide($query, $text, @relations) if chance(0.1);
	return { text => $text, relations => \@relations };
}

# FROM: relations, joined in some order.
sub make_from
{
	my ($query, $tables) = @_;
	my @parts;

	foreach my $number (0 .. int(rand(4)))
	{
		push @parts, { text => pick(@$tables) . " AS r$number", relations => ["r$number"] };
		$query->{names}{"r$number"} = "r$number.*";
	}
	while (@parts > 1)
	{
		my $at = int(rand(@parts - 1));

		splice(@parts, $at, 2, join_parts($query, @parts[ $at, $at + 1 ]));
	}
	$query->{relations} = $parts[0]{relations};
	return $parts[0]{text};
}

# An expression for the key.
sub key_expression
{
	my ($query, @relations) = @_;
	my ($x, $y) = map { column($query, pick(@relations)) } 1 .. 2;

	return $x if chance(0.65);
	return pick("coalesce($x, $y)", "$x + 1", "$x % 2", "$x + $y", column($query, pick(@relations), 'n'), "$x IS NULL",
		"lower($x\::text)", column($query, pick(@relations), 'n') . '::text', "CASE WHEN $x = 1 THEN $y END");
}

# The columns of relations that a query shows: all, or some, so that other read models show others.
sub shown
{
	my ($query, @relations) = @_;
	my @all = map { my $relation = $_; map { column($query, $relation, $_) } @columns } @relations;

	return chance(0.4) ? @all : some(1 + int(rand(@all)), @all);
}

# A grouped query whose aggregates show every row of a group.
sub grouped
{
	my ($query, $from, $where) = @_;
	my @relations = some(pick(1, 1, 2, 3), @{ $query->{relations} });
	my @keys = map { key_expression($query, @relations) } 1 .. pick(1, 1, 2, 3);
	my @all = shown($query, @{ $query->{relations} });
	my @numbers = (grep({ !/\bt(_r\d)?$/ } @all), '1');
	my $row = 'ROW(' . join(', ', @all) . ')::text';
	my $names = join(', ', map { "k$_" } 1 .. @keys);
	my $select = join(', ', map { "$keys[$_ - 1] AS k$_" } 1 .. @keys);
	my $extra = pick('', ', sum(' . pick(@numbers) . ') AS total',
		', count(DISTINCT ' . pick(@numbers) . ') FILTER (WHERE ' . pick(@numbers) . ' = 1) AS ones');
	my $having = chance(0.2) ? ' HAVING count(*) ' . pick('> 1', '< 3', '<> 2') : '';

	$query->{key} = chance(0.3) ? 'NULL' : "'{$names}'";
	return "SELECT $select, count(*) AS rows, array_agg($row ORDER BY $row) AS list$extra FROM $from$where GROUP BY "
	  . join(', ', 1 .. @keys) . $having;
}

# A query without groups, told apart by the keys of all tables.
sub plain
{
	my ($query, $from, $where) = @_;
	my %shown = map { $_ => 1 } shown($query, @{ $query->{relations} });
	my @select;

	foreach my $relation (@{ $query->{relations} })
	{
		push @select, map { column($query, $relation, $_) . " AS ${_}_$relation" }
		  grep { $_ eq 'id' || $shown{ column($query, $relation, $_) } } @columns;
	}

	$query->{key} = "'{" . join(', ', map { "id_$_" } @{ $query->{relations} }) . "}'";
	return 'SELECT ' . join(', ', @select) . " FROM $from$where";
}

# A query of one level: text and key.
sub make_query
{
	my ($tables, $unique) = @_;
	my $query = { names => {}, joins => pick(['INNER'], [qw(INNER LEFT)], [qw(INNER LEFT RIGHT FULL)], [qw(LEFT FULL)]), hidden => 0 };
	my $from = make_from($query, $tables);
	my @where;
	my $where;

	push @where, filter($query, @{ $query->{relations} }) if chance(0.25);
	push @where, condition($query, $query->{relations}, $query->{relations}) if chance(0.2);
	$where = @where ? ' WHERE ' . join(' AND ', @where) : '';
	$query->{text} = $unique && chance(0.3) ? plain($query, $from, $where) : grouped($query, $from, $where);
	return $query;
}

# ---- tables and changes

# Whether a round prepares transactions.  They insert only, and then nothing else may want more than that from a table.
my $prepares;

# A row of values.
sub row
{
	my ($unique) = @_;

	return '(' . join(', ', ($unique || chance(0.8) ? int(rand(5)) : 'NULL::integer'), map { value($_) } @columns[ 1 .. $#columns ]) . ')';
}

# An INSERT of rows from somewhere; into a table with a primary key only of those that do not clash.
sub insert_from
{
	my ($table, $unique, $rows) = @_;

	return "INSERT INTO $table SELECT * FROM $rows" unless $unique;
	return "INSERT INTO $table SELECT DISTINCT ON (id) * FROM $rows WHERE id NOT IN (SELECT id FROM $table) ORDER BY id, a, b, n, v, t";
}

# An INSERT of a few rows.
sub insert
{
	my ($table, $unique, $count) = @_;

	return insert_from($table, $unique, '(VALUES ' . join(', ', map { row($unique) } 1 .. $count) . ') r (id, a, b, n, v, t)');
}

# A condition that picks some rows of a table.
sub some_rows
{
	my ($table) = @_;

	return pick('a = ' . int(rand(3)), 'b IS NULL', 'id < 2', "ctid = (SELECT min(ctid) FROM $table)", 'true');
}

# A statement that changes tables.
sub change
{
	my ($tables, $unique) = @_;
	my ($table, $other) = (pick(@$tables), pick(@$tables));
	my $column = pick(qw(a b n v t v t));
	my $luck = rand();

	return insert($table, $unique, 1 + int(rand(2))) if $luck < 0.35;
	return "UPDATE $table SET $column = " . value($column) . ' WHERE ' . some_rows($table) if $luck < 0.55;
	return "DELETE FROM $table WHERE " . some_rows($table) if $luck < 0.8;
	return "UPDATE $table SET a = b, b = a WHERE " . some_rows($table) if $luck < 0.85;
	return "UPDATE $table SET id = CASE id WHEN 0 THEN 1 ELSE 0 END WHERE id IN (0, 1)" if $luck < 0.88 && $unique ne 'plain';
	return "TRUNCATE $table" if $luck < 0.89 && !$prepares;
	return "WITH gone AS (DELETE FROM $table WHERE " . some_rows($table) . ' RETURNING *) '
	  . insert_from($other, $unique, '(SELECT id + 10 AS id, a, b, n, v, t FROM gone) g');
}

# A transaction, as a list of statements.
sub transaction
{
	my ($tables, $unique, $name) = @_;
	my @statements = map { change($tables, $unique) } 1 .. 1 + int(rand(3));

	return ('BEGIN', insert(pick(@$tables), '', 2), "PREPARE TRANSACTION '$name'") if $prepares && chance(0.15);
	if (chance(0.2))
	{
		push @statements, 'SAVEPOINT s', change($tables, $unique), pick('ROLLBACK TO s', 'RELEASE s'), change($tables, $unique);
	}
	return ('BEGIN', @statements, chance(0.9) ? 'COMMIT' : 'ROLLBACK');
}

# The changes of a round: a list of windows, each a list of transactions; a prepared one commits in a later window.
sub make_windows
{
	my ($tables, $unique, $schema) = @_;
	my @windows;
	my @prepared;

	foreach my $number (1 .. WINDOWS)
	{
		my @transactions;

		push @transactions, ["COMMIT PREPARED '" . shift(@prepared) . q{'}] if @prepared && ($number == WINDOWS || chance(0.5));
		foreach my $count (1 .. 1 + int(rand(3)))
		{
			my $name = "${schema}_${number}_$count";
			my @statements = transaction($tables, $unique, $name);

			next if $statements[-1] =~ /^PREPARE/ && $number == WINDOWS;
			push @prepared, $name if $statements[-1] =~ /^PREPARE/;
			push @transactions, \@statements;
		}
		push @windows, \@transactions;
	}
	push @windows, [ map { ["COMMIT PREPARED '$_'"] } @prepared ] if @prepared;
	return \@windows;
}

# A round's tables and what they begin with.  'unique' tells how ids are kept apart: not at all, by each row, or by each statement.
sub make_tables
{
	my ($tables, $unique) = @_;
	my %id = ('' => '', plain => ' PRIMARY KEY', deferrable => ' PRIMARY KEY DEFERRABLE');

	return map {
		("CREATE TABLE $_ (id integer$id{$unique}, a integer, b integer, n numeric, v integer, t text)", chance(0.9) ? insert($_, $unique, 1 + int(rand(3))) : ())
	} @$tables;
}

# ---- rounds

# A round from its number.
sub make_round
{
	my ($number) = @_;
	my $unique = pick('', '', 'plain', 'deferrable');
	my @tables;
	my %round;

	$prepares = $unique eq '' && chance(0.5);
	@tables = map { "t$_" } 0 .. 1 + int(rand(TABLES - 1));
	%round = (schema => "round_$number", setup => [ make_tables(\@tables, $unique) ]);
	$round{queries} = { map { $_ => make_query(\@tables, $unique) } 1 .. QUERIES };
	$round{windows} = make_windows(\@tables, $unique, $round{schema});
	foreach my $query (map { $round{queries}{$_} } 2 .. QUERIES)
	{
		$query->{born} = int(rand(WINDOWS)) if !$prepares && chance(0.25);
		$query->{dies} = ($query->{born} // 0) + 1 + int(rand(WINDOWS)) if chance(0.25);
	}
	return \%round;
}

# Counts what a round was about.
sub learn
{
	my ($round, $strategies) = @_;

	$seen{rounds}++;
	$seen{queries} += QUERIES;
	$seen{windows} += QUERIES * @{ $round->{windows} };
	foreach my $strategy (values %$strategies)
	{
		my ($name, $full, $sources) = @$strategy;

		$seen{full} += $full;
		$seen{keys} += $sources - $full;
	}
	return;
}

my $node = rounds_server('one_level');

run_rounds($seconds, $seed, \&make_round, \&learn);
ok($seen{keys} > $seen{full}, 'most sources are followed by keys');
note(join(', ', map { "$seen{$_} $_" } qw(rounds queries windows keys full)));
$node->stop;
done_testing();
