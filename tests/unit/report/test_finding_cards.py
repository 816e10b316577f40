"""Which findings the card of a pair shows."""

from diptych.page.cards import Card, CardGroup, Cards
from diptych.report import finding_cards


def card(name, status="finding"):
    return Card(name, "down_proj moved", "weights", "", "B", status, [], [], {"effect": 1.0})


def test_where_no_finding_has_text_the_first_of_each_method_is_shown():
    """As the change of a matrix, whose words are its singular vectors' and no text of either model."""
    first, second, once = card("weights-0"), card("weights-1"), card("map-0", "not repeated")
    groups = [CardGroup("weights", "", [first, second], 5), CardGroup("linear map", "", [once], 5)]
    assert finding_cards.best(Cards(groups, {}), 3) == [first]
