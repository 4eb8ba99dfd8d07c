"""What people in the twin's world are called and what they write: Portuguese, with accents, emoji and oddities."""

from typing import Final

FIRST_NAMES: Final = (
    "João", "Maria", "José", "Ana", "António", "Inês", "Francisco", "Beatriz", "Tiago", "Leonor", "Duarte", "Matilde",
    "Gonçalo", "Carolina", "Rui", "Sofia", "Nuno", "Catarina", "Luís", "Mariana", "Conceição", "Estêvão", "Graça", "Zé",
)  # fmt: skip
SURNAMES: Final = (
    "Silva", "Santos", "Ferreira", "Pereira", "Oliveira", "Costa", "Rodrigues", "Martins", "Jesus", "Sousa", "Lima",
    "Gonçalves", "Gomes", "Lopes", "Marques", "Alves", "Almeida", "Ribeiro", "Pinto", "Carvalho", "Araújo", "Simões",
)  # fmt: skip
ODD_NAMES: Final = (None, "", "Ana undefined", "مريم الحسن", "🌻 Rosa 🌻", 'Loja d\'Água "A Fonte" \\ Lda', "  ")
"""Names that relatives of the product really send."""

AGENTS: Final = ("Carla Mendes", "Pedro Nóbrega", "Sílvia Falcão", "Hugo Brandão", "Teresa Leitão")
QUEUES: Final = ("Suporte", "Vendas", "Faturação", "Marcações")
AI_AGENTS: Final = ("Maria — Assistente", "Bot de triagem")

RECEIVED: Final = (
    "Olá, preciso de ajuda",
    "Bom dia! Ainda têm vagas para amanhã? 😊",
    "Boa tarde, a minha encomenda ainda não chegou 😕",
    "Obrigado!",
    "ok 👍",
    "Pode ser às 15h30?",
    "Qual é o preço da consulta de avaliação?",
    "Não consigo entrar na minha conta...",
    "Já paguei por MB WAY, segue o comprovativo",
    "Então fica combinado. Até amanhã! 🙏🏽",
    "?",
    "A morada é:\nRua das Flores, 12, 3.º Esq.\n4050-262 Porto",
    'O ecrã diz "erro 500" \\ que faço?',
    "👨‍👩‍👧‍👦 somos quatro pessoas",
    "É urgente, por favor!!! 🚨",
)
SENT: Final = (
    "Olá! Como posso ajudar?",
    "Bom dia 😊 Em que posso ser útil?",
    "Com certeza, vou verificar e já lhe digo.",
    "A sua encomenda saiu hoje do armazém 📦",
    "Está marcado para amanhã às 15h30 ✅",
    "Pode enviar-nos o número da fatura, por favor?",
    "Já está resolvido. Precisa de mais alguma coisa?",
    "Enviámos um e-mail com as instruções.",
    "O valor é de 45,00 €, com IVA incluído.",
    "Obrigada pelo contacto. Até breve! 👋",
)
CLOSING: Final = "Vamos encerrar este atendimento. De 1 a 5, como avalia o nosso serviço? ⭐"
CAMPAIGNS: Final = (
    ("Promoção Verão 2026", "Olá {{name}}! ☀️ Só esta semana: 20% de desconto."),
    ("Lembrete de consulta", "Olá {{name}}, lembramos a sua consulta de amanhã. Responda 1 para confirmar."),
    ("Natal em família 🎄", "Boas Festas, {{name}}! Horário especial: 9h-13h."),
    ("Inquérito de satisfação", "{{name}}, a sua opinião conta. Demora 1 minuto 🙏"),
)

MEDIA: Final = (
    ("image", "foto.jpg"),
    ("audio", "ptt.ogg"),
    ("ptt", "nota-de-voz.ogg"),
    ("application", "comprovativo.pdf"),  # an inbound document is the first half of its MIME type
    ("document", "fatura.pdf"),
    ("video", "video.mp4"),
    ("sticker", "sticker.webp"),
)
PLAYED: Final = frozenset({"audio", "ptt"})
"""Media whose last ack is 5, played."""

CHANNELS: Final = ("whatsapp",) * 17 + ("sms", "telegram", "telegram")


def cut(text: str, units: int = 255) -> str:
    """Return the first UTF-16 units as `substring(0, 255)` would: an emoji on the border is cut in half."""
    if len(text) * 2 <= units or not text:
        return text
    wide = text.encode("utf-16-le", "surrogatepass")
    return wide[: units * 2].decode("utf-16-le", "surrogatepass")


def long_text(before: int) -> str:
    """Return a text that has an emoji exactly on the border of `cut`, `before` being how far it is shifted (0 or 1)."""
    filler = "Queria contar-vos tudo o que aconteceu desde a semana passada. " * 5
    return filler[: 254 - before] + "😀" + " E foi assim."
