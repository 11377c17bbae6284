"""The catalogue finds every contract by its path, in an order in which the tables can be built."""

from datetime import timedelta
from pathlib import Path

import pytest

from contracts import catalog, project
from contracts.model import LONG, Column, ContractError, Layer, Reference, Table
from tests.projects import write


def table(name: str, *inputs: str, refers_to: str = "") -> Table:
    """A silver table that needs these."""
    return Table(
        layer=Layer.SILVER,
        name=name,
        doc=name,
        grain="one row",
        owner="me",
        freshness=timedelta(days=1),
        columns=(Column("id", LONG, "Id"),),
        inputs=inputs,
        references=(Reference(("id",), refers_to, ("id",)),) if refers_to else (),
    )


def files() -> set[tuple[str, str]]:
    """Layer and name of every contract, from the folder alone."""
    return {(path.parent.name, path.stem) for path in (project.current().root / "contracts").glob("*/*.py")}


def test_every_file_declares_its_table() -> None:
    assert {(table.layer, table.name) for table in catalog.all_tables()} == files()
    assert len(catalog.all_tables()) == len(files()) == 12


@pytest.mark.parametrize("layer", [*catalog.LAYERS, *catalog.AFTER_RELEASE])
def test_a_layer_holds_its_own_tables_only(layer: Layer) -> None:
    assert {(layer, table.name) for table in catalog.tables(layer)} == {file for file in files() if file[0] == layer}


def test_a_table_comes_after_its_inputs_and_what_it_refers_to() -> None:
    seen: set[str] = set()
    for table in catalog.all_tables():
        needed = {*table.inputs, *(reference.to for reference in table.references)}
        assert needed <= seen, table.qualified
        seen.add(table.qualified)


def test_every_key_and_reference_finds_its_columns_in_the_other_table() -> None:
    for table in catalog.all_tables():
        for reference in table.references:
            other = catalog.table(reference.to)
            assert {*reference.to_columns} <= {*other.column_names}, table.qualified
            assert [table.column(name).type for name in reference.columns] == [
                other.column(name).type for name in reference.to_columns
            ], table.qualified


def test_a_needed_table_comes_first_whatever_the_alphabet_says() -> None:
    unsorted = [table("apples", refers_to="silver.pears"), table("baskets", "silver.apples"), table("pears")]
    assert [table.name for table in catalog._in_order(unsorted)] == ["pears", "apples", "baskets"]


def test_a_table_may_refer_to_itself() -> None:
    assert [table.name for table in catalog._in_order([table("staff", refers_to="silver.staff")])] == ["staff"]


def test_tables_that_need_each_other_are_named() -> None:
    with pytest.raises(
        ContractError, match=r"^these tables depend on each other in a circle: silver\.apples, silver\.pears$"
    ):
        catalog._in_order([table("apples", "silver.pears"), table("pears", "silver.apples"), table("plums")])


@pytest.mark.parametrize(
    ("requested", "near"),
    [("silver.ticket", "silver.tickets"), ("gold.gest_activity", "gold.guest_activity")],
)
def test_an_unknown_table_is_answered_with_the_nearest(requested: str, near: str) -> None:
    with pytest.raises(ContractError, match=rf"^there is no table '{requested}'\. Did you mean {near}\?$"):
        catalog.table(requested)


def test_a_name_that_is_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(ContractError, match=r"Known: bronze\.members, .*gold\.guest_profile, gold\.movie_demand\.$"):
        catalog.table("xyz")


DECLARE = "from contracts.model import LONG, Column, Layer, Table\n"


def declaration(variable: str, name: str) -> str:
    return (
        f"{DECLARE}{variable} = Table(layer=Layer.SILVER, name={name!r}, doc='', grain='', owner='', freshness=None,"
        " columns=(Column('id', LONG, 'Id'),))\n"
    )


@pytest.mark.parametrize(
    "text",
    ["", "orders = 5\n", declaration("orders", "sales"), declaration("order", "orders")],
    ids=["nothing", "no table", "another name", "another variable"],
)
def test_a_file_that_declares_something_else_gets_an_error_that_says_what_to_declare(
    tmp_path: Path, request: pytest.FixtureRequest, text: str
) -> None:
    name = f"shop_{abs(hash(request.node.name))}"
    write(tmp_path, name, {"contracts/silver/orders.py": text})
    with pytest.raises(
        ContractError,
        match=(
            r"^contracts/silver/orders\.py must declare `orders`, the contract of the table silver\.orders:"
            r" Table\(layer=Layer\.SILVER"
        ),
    ):
        catalog.load(project.load(tmp_path), Layer.SILVER, "orders")
