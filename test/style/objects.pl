# What CREATE EXTENSION makes: everything has a comment, functions say what the planner and the executor may do with them, and what is
# not for users is out of their reach.  Asks the server that the environment names, where the extension is created.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

# The rows of a query, each as one string.
sub rows
{
	my ($query) = @_;

	open(my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', $query) or die "psql: $!";
	my @rows = <$psql>;
	close($psql) or die 'psql failed';
	chomp @rows;
	return @rows;
}

my $members = q{SELECT classid, objid, objsubid, pg_describe_object(classid, objid, objsubid) AS what FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs')};

cmp_ok(scalar rows($members), '>', 20, 'the extension has objects');
is(join("\n", rows(qq{SELECT what FROM ($members) m WHERE obj_description(objid, classid::regclass::name) IS NULL
		AND NOT (classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type WHERE oid = objid AND (typrelid <> 0 OR typelem <> 0)))})),
	'', 'every object has a comment');
is(join("\n", rows(qq{SELECT what FROM ($members) m JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
		WHERE relnamespace = 'cqrs'::regnamespace AND relkind NOT IN ('v', 'c')})),
	'', 'schema cqrs holds functions and views only');
is(join("\n", rows(qq{SELECT what FROM ($members) m JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
		WHERE prosecdef AND NOT coalesce(proconfig::text LIKE '%search_path=%', false)})),
	'', 'functions that run as their owner have a search_path of their own');
is(join("\n", rows(q{SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'cqrs_internal'::regnamespace
		AND relkind = 'r' AND has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')})),
	'', 'nobody but the owner writes to the catalog');

# The text says what the catalog shows only as a default; strictness where there are arguments.
foreach my $path (glob('src/install/*.sql'))
{
	my $text = contents($path) =~ s/--[^\n]*//gr;

	while ($text =~ /CREATE (?:OR REPLACE )?FUNCTION\s+([\w.]+)\s*\((.*?);\n/gs)
	{
		my ($name, $rest) = ($1, $2);

		ok($rest =~ /\b(?:IMMUTABLE|STABLE|VOLATILE)\b/ && $rest =~ /\bPARALLEL (?:SAFE|RESTRICTED|UNSAFE)\b/,
			"$path: $name says its volatility and parallel safety");
		ok($rest =~ /^\s*\)/ || $rest =~ /\b(?:STRICT|RETURNS NULL ON NULL INPUT|CALLED ON NULL INPUT)\b/,
			"$path: $name says what it does with nulls");
	}
}
done_testing();
